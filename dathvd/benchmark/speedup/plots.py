"""Pictures of a sweep: speed-up and efficiency, and where the time goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dathvd.benchmark.speedup.cluster_model import Prediction, key_of
from dathvd.benchmark.speedup.rows import SweepRow
from dathvd.benchmark.speedup.summary import speed_up
from dathvd.report.plots import new_figure, save_figure

PARTS = ("data", "attack", "update", "exposed")


def plot_speed_up(
    rows: Sequence[SweepRow], predictions: Sequence[Prediction], path: Path
) -> None:
    """Speed-up and efficiency over workers: measured points, predicted lines.

    Args:
        rows: measured, of one rate.
        predictions: drawn dashed and named so.
        path: the PNG.
    """
    figure = new_figure(11, 4.4)
    left, right = figure.subplots(1, 2)
    claims = [(row, speed_up(row, rows)) for row in rows if not row.is_local]
    keys = sorted({key_of(row) for row, _ in claims})
    for index, key in enumerate(keys):
        codec, exchange, overlap = key
        label = f"{codec} {exchange}" + (" + overlap" if overlap == "attack" else "")
        colour = f"C{index % 10}"
        guess = [p for p in predictions if (p.codec, p.exchange, p.overlap) == key]
        sizes = [p.num_workers for p in guess]
        efficiency = [p.efficiency for p in guess]
        speeds = [p.efficiency * p.num_workers for p in guess]
        left.plot(sizes, speeds, "--", color=colour, linewidth=1)
        right.plot(sizes, efficiency, "--", color=colour, linewidth=1)
        told = [(r, s) for r, s in claims if s is not None and key_of(r) == key]
        counts = [row.num_workers for row, _ in told]
        left.plot(counts, [s for _, s in told], "o", color=colour, label=label)
        shares = [s / row.num_workers for row, s in told]
        right.plot(counts, shares, "o", color=colour)
    sizes = sorted({p.num_workers for p in predictions} | {r.num_workers for r in rows})
    left.plot(sizes, sizes, color="0.7", linewidth=1, label="linear")
    right.plot(sizes, [1.0] * len(sizes), color="0.7", linewidth=1)
    left.set_yscale("log", base=2)
    left.set_ylabel("speed-up over one worker")
    right.set_ylabel("efficiency")
    right.set_ylim(0, 1.1)
    left.legend(fontsize=7)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("workers")
        axes.set_title("points: measured, dashed: predicted", fontsize=9)
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def plot_parts(rows: Sequence[SweepRow], path: Path) -> None:
    """Stacked bars of each measured step's parts.

    Args:
        rows: measured, of one rate.
        path: the PNG.
    """
    figure = new_figure(max(5.0, 0.7 * len(rows) + 2), 4.6)
    axes = figure.subplots()
    bottom = [0.0] * len(rows)
    for part, colour in zip(PARTS, ("C7", "C1", "C0", "C3"), strict=True):
        values = [getattr(row, f"{part}_seconds") for row in rows]
        axes.bar(range(len(rows)), values, bottom=bottom, color=colour, label=part)
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    labels = [
        f"{row.codec}\n{row.exchange}"
        + ("\noverlap" if row.overlap == "attack" else "")
        + f"\n{row.num_workers} workers"
        + ("*" if row.oversubscribed else "")
        for row in rows
    ]
    axes.set_xticks(range(len(rows)), labels, fontsize=6)
    axes.set_ylabel("seconds a step")
    if any(row.oversubscribed for row in rows):
        axes.set_title("* oversubscribed: more workers than cores", fontsize=9)
    axes.legend()
    save_figure(figure, path)
