"""The table of runs in a terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from dathvd.report.tables import plain_console

Rows = Sequence[dict[str, Any]]
"""Observations as JSON values (``Observation.to_json``)."""
COLOURS = {
    "queued": "cyan",
    "running": "green",
    "stalled": "yellow",
    "finished": "bold green",
    "failed": "bold red",
    "stopped": "magenta",
    "lost": "bold red",
    "unknown": "yellow",
}


def print_runs(rows: Rows, total: int) -> None:
    """Print the table, and how many runs it leaves out."""
    console = plain_console()
    console.print(runs_table(rows) if rows else "no submitted runs")
    if total > len(rows):
        console.print(f"{total - len(rows)} more (--limit shows them)")


def watch_runs(read: Callable[[], tuple[Rows, int]], seconds: float = 2.0) -> None:
    """Show the table anew until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        with Live(console=Console(), auto_refresh=False, screen=False) as live:
            while True:
                live.update(runs_table(read()[0]), refresh=True)
                time.sleep(seconds)


def runs_table(rows: Rows) -> Table:
    """One row for each run: state with reason and age, progress, accuracies."""
    table = Table("run", "state", "since", "progress", "left", "clean", "robust", "why")
    for row in rows:
        status = row["status"]
        colour = COLOURS.get(status["state"], "")
        table.add_row(
            Path(row["run"]).name,
            f"[{colour}]{status['state']}[/]" if colour else status["state"],
            age(status["since"]),
            _percent(row["progress"], 0),
            duration(row["remaining_seconds"]),
            _percent(row["clean_accuracy"], 1),
            _percent(row["robust_accuracy"], 1),
            status["reason"],
        )
    return table


def print_comparison(compared: dict[str, Any]) -> None:
    """Print differences beside accuracies, then means over seeds."""
    console = plain_console()
    runs, differences = compared["runs"], compared["differences"]
    table = Table("run", "state", *differences, "clean", "robust", "judged by")
    for index, run in enumerate(runs):
        table.add_row(
            Path(run["run"]).name,
            run["status"]["state"],
            *(str(values[index]) for values in differences.values()),
            _percent(run["clean_accuracy"], 1),
            _percent(run["robust_accuracy"], 1),
            compared["evaluations"][index] or "no result",
        )
    console.print(table)
    if not compared["is_comparable"]:
        console.print(
            "[bold red]not comparable[/]: these runs were judged by different attacks, "
            "samples or data"
        )
    if len(compared["summaries"]) == len(runs):
        return
    table = Table("over seeds", "finished", "clean %", "robust %")
    for each in compared["summaries"]:
        fields = ", ".join(f"{k} = {v}" for k, v in each["fields"].items())
        done = f"{each['finished']} of {each['count']}"
        table.add_row(
            fields or "all", done, _range(each["clean"]), _range(each["robust"])
        )
    console.print(table)


def _range(values: Sequence[float] | None) -> str:
    """Mean, lowest and highest, in percent."""
    if values is None:
        return ""
    middle, low, high = (100 * value for value in values)
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def age(since: float | None) -> str:
    """How long ago, such as ``3 min``."""
    return "" if since is None else duration(max(0.0, time.time() - since))


def duration(seconds: float | None) -> str:
    """A length of time in its largest whole unit, such as ``3 min``."""
    if seconds is None:
        return ""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _percent(share: float | None, digits: int) -> str:
    return "" if share is None else f"{100 * share:.{digits}f} %"
