"""Runs side by side: how their configurations differ, and what came out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from dathvd.service.observe import Observation, read_result

_LEAVE_OUT = ("seed",)


@dataclass(frozen=True)
class Compared:
    """Several runs, the fields in which they differ, and their accuracies."""

    runs: list[Observation]
    differences: dict[str, list[Any]]
    """Fields such as ``attack.epsilon``, with each run's value."""
    evaluations: list[str | None]
    """What each run was judged by, in words; None without a result."""

    @property
    def is_comparable(self) -> bool:
        """Whether all runs with a result were judged by the same attack."""
        return len({each for each in self.evaluations if each is not None}) <= 1


@dataclass(frozen=True)
class Summary:
    """Runs that differ in their seed alone."""

    fields: dict[str, Any]
    """What tells them from the other summaries."""
    count: int
    finished: int
    evaluation: str | None
    clean: tuple[float, float, float] | None
    """Mean, lowest and highest clean accuracy, in [0, 1]."""
    robust: tuple[float, float, float] | None


def compare(runs: Sequence[Observation]) -> Compared:
    """Put runs side by side."""
    flat = [flatten(run.job.config or {}) for run in runs]
    names = sorted({name for fields in flat for name in fields})
    differences = {}
    for name in names:
        values = [fields.get(name) for fields in flat]
        if any(value != values[0] for value in values):
            differences[name] = values
    return Compared(list(runs), differences, [evaluation_of(run) for run in runs])


def short_names(compared: Compared) -> list[str]:
    """Names for the runs: what they differ in, else their folders' names."""
    names = []
    for index, run in enumerate(compared.runs):
        values = [
            f"{field.rpartition('.')[2]} {value[index]}"
            for field, value in compared.differences.items()
        ]
        names.append(", ".join(values[:4]) or Path(run.run).name)
    return names


def summarise(compared: Compared) -> list[Summary]:
    """Mean and range over seeds of the runs that are otherwise equal."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    fields = {k: v for k, v in compared.differences.items() if k not in _LEAVE_OUT}
    for index in range(len(compared.runs)):
        groups[tuple(repr(values[index]) for values in fields.values())].append(index)
    found = []
    for places in groups.values():
        runs = [compared.runs[place] for place in places]
        done = [run for run in runs if run.state == "finished"]
        attacks = {compared.evaluations[place] for place in places} - {None}
        found.append(
            Summary(
                {name: values[places[0]] for name, values in fields.items()},
                len(runs),
                len(done),
                " / ".join(sorted(filter(None, attacks))) or None,
                _spread([run.clean_accuracy for run in done]),
                _spread([run.robust_accuracy for run in done]),
            )
        )
    return found


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"attack": {"epsilon": 0.1}}`` as ``{"attack.epsilon": 0.1}``."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def evaluation_of(run: Observation) -> str | None:
    """What the run was judged by: attack, images, data set; None without a result."""
    result = read_result(Path(run.run))
    if result is None or "robust_accuracy" not in result:
        return None
    data = (run.job.config or {}).get("data", {}).get("name", "")
    return f"{result.get('attack')}, {result.get('num_samples')} images of {data}"


def _spread(values: Sequence[float | None]) -> tuple[float, float, float] | None:
    known = [value for value in values if value is not None]
    return (mean(known), min(known), max(known)) if known else None
