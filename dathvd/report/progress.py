"""Progress for people: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn
from rich.progress import Progress as Bar
from rich.progress import TextColumn, TimeRemainingColumn

from dathvd.ranks import under_launcher


class Progress:
    """Shows steps done with the latest numbers.

    Args:
        what: a word in front, such as "train".
        total: steps in all.
        done: steps done before.
        silent: show nothing (ranks other than 0).
        every: seconds between lines where there is no terminal, as under horovodrun.
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        done: int = 0,
        silent: bool = False,
        every: float = 5.0,
    ) -> None:
        self._what, self._total, self._silent, self._every = what, total, silent, every
        self._said = 0.0
        self._bar: Bar | None = None
        # mpirun gives rank 0 a terminal of its own whose output it copies into a log
        if not silent and not under_launcher() and Console().is_terminal:
            self._bar = Bar(
                TextColumn(what), BarColumn(20), TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
            )  # fmt: skip
            self._task = self._bar.add_task(
                what, total=total, completed=done, numbers=""
            )
            self._bar.start()

    def total(self, steps: int) -> None:
        """Set the number of steps."""
        self._total = steps
        if self._bar is not None:
            self._bar.update(self._task, total=steps)

    def update(self, row: dict[str, Any]) -> None:
        """Show the row's step and numbers."""
        if self._silent:
            return
        done, numbers = int(row["step"]), format_numbers(row)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, numbers=numbers)
            return
        now = time.monotonic()
        if now - self._said >= self._every or done == self._total:
            self._said = now
            filled = 20 * done // max(self._total, 1)
            bar = "#" * filled + "." * (20 - filled)
            print(f"{self._what} [{bar}] {done}/{self._total} {numbers}", flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
        sys.stdout.flush()


def format_numbers(row: dict[str, Any]) -> str:
    """The numbers of a row in one short line."""
    parts = []
    if "epoch" in row:
        parts.append(f"epoch {row['epoch']:.1f}")
    if "loss" in row:
        parts.append(f"loss {row['loss']:.3f}")
    for name in ("clean", "robust"):
        if f"{name}_accuracy" in row:
            parts.append(f"{name} {100 * row[f'{name}_accuracy']:.1f} %")
    if "lr" in row:
        parts.append(f"lr {row['lr']:.2g}")
    if "images_per_second" in row:
        parts.append(f"{row['images_per_second']:.0f} images/s")
    return "  ".join(parts)
