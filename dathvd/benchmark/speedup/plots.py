"""Pictures of a sweep: speed-up and efficiency, and where the time goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dathvd.benchmark.speedup.cluster_model import Prediction, key_of
from dathvd.benchmark.speedup.rows import SweepRow
from dathvd.benchmark.speedup.summary import speed_up
from dathvd.report.plots import new_figure, save_figure

PARTS = ("data", "attack", "update", "exposed")
_PART_COLOURS = ("0.55", "#E69F00", "#56B4E9", "#D55E00")
_COLOURS = {
    "horovod": "0.25",
    "none": "#0072B2",
    "fp16": "#009E73",
    "bf16": "#66A61E",
    "int8": "#E69F00",
    "int4": "#A6761D",
    "sign": "#D55E00",
    "topk": "#CC79A7",
    "powersgd": "#7570B3",
    "paper": "#E7298A",
}
_FURTHER = ("#1B9E77", "#B15928", "#6A3D9A", "#33A02C")  # of codecs by place
_MARKERS = {"allreduce": "o", "allgather": "s", "two-way": "^", "hierarchical": "D"}
_README_WIDTH = 9.0  # inches: at 110 dots an inch, a README's width in a browser
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Style:
    """How a codec, exchange and overlap mode is drawn: no two alike."""

    colour: str
    line: str
    marker: str

    def options(self) -> dict[str, Any]:
        """Of ``Axes.plot``."""
        return {
            "color": self.colour,
            "linestyle": self.line,
            "marker": self.marker,
            "markevery": 2,
            "markersize": 4,
            "linewidth": 1.3,
        }


def styles(keys: Sequence[Key]) -> dict[Key, Style]:
    """A colour a codec, a marker an exchange, dashes for overlap."""
    unknown = sorted({codec for codec, _, _ in keys} - set(_COLOURS))
    further = dict(zip(unknown, _FURTHER * len(unknown)))
    return {
        (codec, exchange, overlap): Style(
            _COLOURS.get(codec) or further[codec],
            "--" if overlap == "attack" else "-",
            _MARKERS.get(exchange, "x"),
        )
        for codec, exchange, overlap in keys
    }


def plot_speed_up(
    rows: Sequence[SweepRow],
    predictions: Sequence[Prediction],
    path: Path,
    *,
    error: float | None = None,
) -> None:
    """Speed-up and efficiency over workers: measured points, predicted lines.

    Args:
        rows: measured, of one rate.
        predictions: drawn as lines and named so.
        path: the PNG.
        error: the relative error of predictions, as held-out points showed it; None
            takes the steps' own spread.
    """
    figure = new_figure(_README_WIDTH, 4.2)
    left, right = figure.subplots(1, 2)
    claims = [(row, speed_up(row, rows)) for row in rows if not row.is_local]
    for key, style in styles(sorted({key_of(row) for row, _ in claims})).items():
        guess = [p for p in predictions if (p.codec, p.exchange, p.overlap) == key]
        told = [(r, s) for r, s in claims if s is not None and key_of(r) == key]
        band = _band([row for row, _ in claims if key_of(row) == key], error)
        for axes, power in ((left, 1), (right, 0)):
            sizes = [p.num_workers for p in guess]
            lines = [p.efficiency * p.num_workers**power for p in guess]
            axes.plot(sizes, lines, label=label_of(key), **style.options())
            low, high = ([y / (1 + e) for y in lines] for e in (band, -band))
            if guess:
                axes.fill_between(sizes, low, high, color=style.colour, alpha=0.1, lw=0)
            counts = [row.num_workers for row, _ in told]
            points = [s * row.num_workers ** (power - 1) for row, s in told]
            axes.plot(
                counts,
                points,
                style.marker,
                color=style.colour,
                markersize=6,
                markeredgecolor="white",
            )
    sizes = sorted({p.num_workers for p in predictions} | {r.num_workers for r in rows})
    left.plot(sizes, sizes, color="0.7", linewidth=1)
    right.plot(sizes, [1.0] * len(sizes), color="0.7", linewidth=1)
    left.set_yscale("log", base=2)
    left.set_title("speed-up over one worker", fontsize=10)
    right.set_title("efficiency", fontsize=10)
    right.set_ylim(0, 1.1)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("workers (large marks: measured; lines: predicted)", fontsize=9)
        axes.grid(alpha=0.3)
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8)
    save_figure(figure, path)


def label_of(key: Key) -> str:
    """The codec, its exchange, and whether it overlaps."""
    codec, exchange, overlap = key
    return f"{codec}, {exchange}" + (", overlap" if overlap == "attack" else "")


def _band(rows: Sequence[SweepRow], error: float | None) -> float:
    """The relative error of a prediction, at most a half."""
    spreads = [row.step_spread / row.step_seconds for row in rows]
    return min(0.5, max(spreads) if error is None else error)


def plot_parts(rows: Sequence[SweepRow], path: Path) -> None:
    """Stacked bars of each measured step's parts, one group a number of workers.

    Args:
        rows: measured, of one rate.
        path: the PNG.
    """
    sizes = sorted({row.num_workers for row in rows})
    ordered = [row for size in sizes for row in rows if row.num_workers == size]
    places = [
        -index - 1.2 * sizes.index(r.num_workers) for index, r in enumerate(ordered)
    ]
    figure = new_figure(_README_WIDTH, 0.27 * (len(rows) + 1.2 * len(sizes)) + 1.1)
    axes = figure.subplots()
    left = [0.0] * len(ordered)
    for part, colour in zip(PARTS, _PART_COLOURS, strict=True):
        values = [getattr(row, f"{part}_seconds") for row in ordered]
        axes.barh(places, values, 0.8, left=left, color=colour, label=part)
        left = [low + value for low, value in zip(left, values, strict=True)]
    for size in sizes:
        first = next(i for i, row in enumerate(ordered) if row.num_workers == size)
        title = "1 worker" if size == 1 else f"{size} workers"
        if ordered[first].oversubscribed:
            title += " (more than cores)"
        axes.text(0, places[first] + 0.75, title, fontsize=9, fontweight="bold")
    names = ["alone" if r.is_local else label_of(key_of(r)) for r in ordered]
    axes.set_yticks(places, names, fontsize=8)
    axes.set_ylim(min(places) - 0.7, 1.6)
    axes.set_xlabel("seconds a step")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(PARTS), fontsize=9)
    save_figure(figure, path)
