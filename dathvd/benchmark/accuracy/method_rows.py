"""The rows of the table of methods, and how they are shown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from dathvd.report.plots import new_figure, save_figure
from dathvd.report.tables import plain_console


@dataclass(frozen=True)
class MethodRow:
    """One training method, with one accuracy in percent for each seed."""

    method: str
    seeds: tuple[int, ...]
    clean: tuple[float, ...]
    pgd: tuple[float, ...]
    autoattack: tuple[float, ...]
    """Accuracies under AutoAttack; empty where it was not asked for."""
    train_seconds: float
    """Seconds of training, averaged over seeds, including the runs that the method
    needs first (a teacher, a pre-training)."""
    num_workers: int
    labelled: float | None = None
    """The share of images that kept their labels; None where all did."""


def print_rows(rows: Sequence[MethodRow], title: str) -> None:
    """The table: means, with the lowest and highest seed."""
    table = Table(title=title)
    table.add_column("method")
    table.add_column("labels", justify="right")
    for name in ("clean %", "PGD-50 %", "AutoAttack %", "train s"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [_spread(values) for values in (row.clean, row.pgd, row.autoattack)]
        labels = "all" if row.labelled is None else f"{row.labelled:.3g}"
        table.add_row(row.method, labels, *cells, f"{row.train_seconds:.0f}")
    plain_console().print(table)


def plot_shares(rows: Sequence[MethodRow], path: Path) -> None:
    """PGD-50 accuracy over the share of labels: each seed, and the mean as a line.

    Methods that have all labels are horizontal lines.
    """
    figure = new_figure(6.5, 4)
    axes = figure.subplots()
    for place, name in enumerate(dict.fromkeys(row.method for row in rows)):
        own = [row for row in rows if row.method == name]
        means = [statistics.fmean(row.pgd) for row in own]
        colour = f"C{place}"
        if own[0].labelled is None:
            axes.axhline(means[0], color=colour, ls="--", label=f"{name}, all labels")
            continue
        shares = [row.labelled or 1.0 for row in own]
        axes.plot(shares, means, "-", color=colour, label=name)
        for share, row in zip(shares, own):
            places = [share] * len(row.pgd)
            axes.plot(places, row.pgd, "o", color=colour, alpha=0.5, markersize=4)
    axes.set_xscale("log")
    ticks = sorted({row.labelled for row in rows if row.labelled is not None})
    axes.set_xticks(ticks, [f"{share:.3g}" for share in ticks], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("share of images that keep their labels")
    axes.set_ylabel("robust accuracy, PGD-50 (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = statistics.fmean(values)
    return f"{mean:.1f} ({min(values):.1f}–{max(values):.1f})"
