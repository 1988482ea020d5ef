"""The rows of the table of methods, and how they are shown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

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


def print_rows(rows: Sequence[MethodRow], title: str) -> None:
    """The table: means, with the lowest and highest seed."""
    table = Table(title=title)
    table.add_column("method")
    for name in ("clean %", "PGD-50 %", "AutoAttack %", "train s"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [_spread(values) for values in (row.clean, row.pgd, row.autoattack)]
        table.add_row(row.method, *cells, f"{row.train_seconds:.0f}")
    plain_console().print(table)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = statistics.fmean(values)
    return f"{mean:.1f} ({min(values):.1f}–{max(values):.1f})"
