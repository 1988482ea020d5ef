"""Accuracies, made from flags of samples."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dathvd.evaluation.grid import Cell, radii


@dataclass(frozen=True)
class Results:
    """What a model gets right, clean and in every cell."""

    cells: Sequence[Cell]
    clean: Tensor
    """Bool ``[num_samples]``."""
    right: Tensor
    """Bool ``[cells, num_samples]``."""
    labels: Tensor
    """int64 ``[num_samples]``."""
    only_survivors: bool = False
    """A cell saw only the samples that were right in all cells before it."""
    busy_seconds: Sequence[float] = ()
    """How long each worker judged, by rank; what a store gave back took no time."""

    def worst_case(self) -> list[dict[str, float]]:
        """The accuracy at each radius under all attacks that stay within it."""
        rows = []
        for epsilon, places in radii(self.cells):
            held = self.clean & self.right[places].all(dim=0)
            rows.append({"epsilon": epsilon, "robust_accuracy": _share(held)})
        return rows

    def rows(self) -> list[dict[str, Any]]:
        """One row for each cell; settings that its attack does not have are None."""
        return [
            {
                "attack": cell.attack,
                "description": cell.describe(),
                **cell.threat(),
                "num_steps": _taken(cell, "num_steps"),
                "step_size": _step_size(cell),
                "restarts": cell.settings.restarts,
                "robust_accuracy": _share(self.clean & right),
            }
            for cell, right in zip(self.cells, self.right, strict=True)
        ]

    def as_json(self) -> dict[str, Any]:
        """All accuracies; ``robust_accuracy`` is the one under all attacks together."""
        rows = self.rows()
        attack = rows[0]["description"]
        if len(rows) > 1:
            largest = max(row["epsilon"] for row in rows)
            attack = f"worst of {len(rows)} attacks up to epsilon {largest:.4g}"
            if any("balls" in row for row in rows):
                attack = f"worst of {len(rows)} attacks in a union of balls"
        return {
            "clean_accuracy": _share(self.clean),
            "robust_accuracy": self.worst_case()[-1]["robust_accuracy"],
            "attack": attack,
            "num_samples": len(self.clean),
            "only_survivors": self.only_survivors,
            "busy_seconds": list(self.busy_seconds),
            "cells": rows,
            "worst_case": self.worst_case(),
        }

    def cells_csv(self) -> str:
        """One line for each cell."""
        rows = self.rows()
        # rows of a union have one column more
        names = max([list(row) for row in rows], key=len)
        return _csv([names, *([row.get(name) for name in names] for row in rows)])

    def samples_csv(self) -> str:
        """One line for each sample: its label, and 1 in each cell that it survives."""
        names = [row["description"] for row in self.rows()]
        columns = [self.clean.int(), *self.right.int()]
        values = zip(*(column.tolist() for column in columns), strict=True)
        lines = [
            [place, label, *flags]
            for place, (label, flags) in enumerate(
                zip(self.labels.tolist(), values, strict=True)
            )
        ]
        return _csv([["sample", "label", "clean", *names], *lines])


def _taken(cell: Cell, option: str) -> Any:
    return getattr(cell.settings, option) if cell.takes(option) else None


def _step_size(cell: Cell) -> Any:
    """None in a union too, where each ball has steps of its own."""
    return None if cell.settings.balls else _taken(cell, "step_size")


def _share(flags: Tensor) -> float:
    return int(flags.sum()) / len(flags)


def _csv(lines: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
