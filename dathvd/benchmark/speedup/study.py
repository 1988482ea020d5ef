"""Predictions, files and printed lines, made from the measured rows of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dathvd.benchmark.speedup.cluster_model import (
    ClusterModel,
    HeldOut,
    Prediction,
    held_out_errors,
    is_told,
    predictions,
)
from dathvd.benchmark.speedup.plots import plot_parts, plot_speed_up
from dathvd.benchmark.speedup.rows import SweepRow
from dathvd.benchmark.speedup.summary import advice, to_csv, to_record
from dathvd.files import write_json, write_text

SIZES = tuple(2**power for power in range(1, 11))
"""Numbers of workers for which steps are predicted."""


@dataclass(frozen=True)
class Study:
    """The rows of one rate of links (or of one cluster), and what they foretell."""

    rate: str | None
    rows: list[SweepRow]
    predicted: list[Prediction]
    held_out: list[HeldOut]

    def title(self) -> str:
        """The line above the table."""
        where = f"links of {self.rate}" if self.rate else "these hosts"
        return f"measured, {where}; ratio: to the same step without communication"

    def error_line(self) -> str:
        """How far off the model was on points that it had not seen."""
        if not self.held_out:
            return "held-out error: none (it needs three numbers of workers)"
        errors = [abs(item.error) for item in self.held_out]
        workers = self.held_out[0].row.num_workers
        return (
            f"held-out error at {workers} workers, fitted on fewer: "
            f"median {median(errors):.1%}, largest {max(errors):.1%} "
            f"of {len(errors)} points"
        )

    def prediction_line(self) -> str:
        """The best predicted way for the most workers."""
        if not self.predicted:
            return "predicted: nothing (no point without oversubscription)"
        most = max(p.num_workers for p in self.predicted)
        best = max(
            (p for p in self.predicted if p.num_workers == most),
            key=lambda p: p.efficiency,
        )
        how = best.codec + (" with overlap" if best.overlap == "attack" else "")
        return (
            f"predicted for {most} such hosts: {how} ({best.exchange}) is best, "
            f"at {best.efficiency:.0%} efficiency"
        )


def studies(rows: Sequence[SweepRow], *, shared_workers: int | None) -> list[Study]:
    """Fit and predict for each rate; a single worker's row counts for all of them.

    Args:
        rows: the measured rows.
        shared_workers: as in ``ClusterModel``, for rows from a rig.
    """
    rates = list(dict.fromkeys(row.rate for row in rows if row.num_workers > 1))
    found = []
    for rate in rates or [None]:
        here = [row for row in rows if row.num_workers == 1 or row.rate == rate]
        fair = [row for row in here if not row.oversubscribed]
        guessed: list[Prediction] = []
        if any(map(is_told, fair)):
            guessed = predictions(ClusterModel.fit(fair), SIZES)
        held = held_out_errors(here, shared_workers=shared_workers)
        found.append(Study(rate, here, guessed, held))
    return found


def write_files(
    found: Sequence[Study],
    rows: Sequence[SweepRow],
    setting: dict[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Write ``speedup.json``, ``speedup.csv`` and two PNGs a rate.

    Args:
        found: the studies of ``rows``.
        rows: the measured rows.
        setting: what the reader must know of how the rows were measured.
        folder: where the files are written.

    Returns:
        The contents of ``speedup.json``; measurements and predictions are two lists.
    """
    report = {
        "setting": setting,
        "rows": [to_record(row, rows) for row in rows],
        "advice": advice(rows),
        "held_out": [
            {"rate": study.rate, "predicted_seconds": item.predicted_seconds}
            | {"error": item.error, "num_workers": item.row.num_workers}
            | {"codec": item.row.codec, "exchange": item.row.exchange}
            | {"overlap": item.row.overlap, "step_seconds": item.row.step_seconds}
            for study in found
            for item in study.held_out
        ],
        "predictions": [
            {"predicted": True, "rate": study.rate, **asdict(guess)}
            for study in found
            for guess in study.predicted
        ],
    }
    write_json(folder / "speedup.json", report)
    write_text(folder / "speedup.csv", to_csv(rows))
    for study in found:
        suffix = f"-{study.rate}" if study.rate else ""
        plot_parts(study.rows, folder / f"time{suffix}.png")
        errors = [abs(item.error) for item in study.held_out]
        plot_speed_up(
            study.rows,
            study.predicted,
            folder / f"speedup{suffix}.png",
            error=max(errors, default=None),
        )
    return report
