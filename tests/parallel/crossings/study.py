"""Carries out all rows in five launches, and compares what they left."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from dathvd.checkpoint import average_updates, find_checkpoints, load_file
from dathvd.run_folder import read_metrics
from tests.parallel.crossings.covering import Group, Row, pairs_of
from tests.parallel.crossings.features import SHAPE
from tests.parallel.crossings.table import depends_on_workers, plainest
from tests.parallel.crossings.trial import Task, differences, tensors
from tests.processes import mpirun, run
from tests.saved_network import save_network

ROOT = Path(__file__).parents[3]
TOLERANCE = 0.02
"""Of the length of what training changed: rounding can turn the sign of a gradient
that is almost zero, of which the attack and some optimizers make whole steps."""
LAUNCHES = (1, 1, 2, 1, 2)
"""Workers of each launch, in turn: first come the references of all rows, then the
rows' runs from their start, last those that go on."""
_REFERENCES, _ONE_STARTS, _TWO_START, _ONE_GOES_ON, _TWO_GO_ON = range(len(LAUNCHES))
LIMIT = 1150
"""Seconds of a launch: alone on two cores it takes 140, beside other tests 420."""
_CRASHES = 8
"""Ranks that fail are started anew with what is left, so many times."""


def write_data(folder: Path) -> None:
    """24 digits to train on, 8 to test, 6 more with labels."""
    digits = load_digits()
    images = (digits.images[:38] * 15.9).astype(np.uint8)[..., None]
    labels = digits.target[:38].astype(np.int64)
    np.savez(
        folder / "digits.npz",
        x_train=images[:24],
        y_train=labels[:24],
        x_test=images[24:32],
        y_test=labels[24:32],
        classes=np.array(list("0123456789")),
    )
    rgb = np.repeat(images[32:], 3, axis=-1)
    np.savez(folder / "extra.npz", x_train=rgb, y_train=labels[32:])
    save_network(folder / "helper", SHAPE, 10, "model.width=8")


@dataclass
class Trial:
    """A row, the calls that make it up, and what went wrong."""

    row: Row
    name: str
    wrong: list[str] = field(default_factory=list)

    @property
    def reference(self) -> str | None:
        """The name of the run whose result it must have, up to rounding."""
        if depends_on_workers(self.row):
            return None
        plain = plainest(self.row)
        return "plain-" + "-".join(plain.values()).replace(" ", "_")

    def calls(self, launch: int) -> Iterator[Task]:
        """The calls in a launch of ``LAUNCHES``.

        A run that goes on does so in another launch than the one that it was left in:
        nothing but its folder is carried over.
        """
        before, _, after = self.row["life"].partition("+")
        task = Task(self.name, self.row)
        if launch == _REFERENCES and self.reference is not None:
            yield Task(self.reference, plainest(self.row))
        starts_at = {"1": _ONE_STARTS, "2": _TWO_START}[before]
        if launch == starts_at:
            if not after:
                yield task
            else:
                yield replace(task, stop=True)
            if after == before:
                yield replace(task, name=f"{self.name}-whole")
        goes_on_at = {
            "1+2": _TWO_START,
            "1+1": _ONE_GOES_ON,
            "2+1": _ONE_GOES_ON,
            "2+2": _TWO_GO_ON,
        }
        if launch == goes_on_at.get(self.row["life"]):
            yield task


@dataclass
class Study:
    """All rows carried out."""

    folder: Path
    trials: list[Trial]
    launched: int = 0
    """Of ``LAUNCHES``."""

    @classmethod
    def prepare(cls, rows: Sequence[Row], folder: Path) -> Study:
        """Write the data; nothing is run."""
        write_data(folder)
        return cls(folder, [Trial(row, f"row-{n:03d}") for n, row in enumerate(rows)])

    def carry_out(self, launch: int) -> None:
        """Carry out all calls of a launch, and of those before it, that are left."""
        for each in range(self.launched, launch + 1):
            calls = {
                (call.name, call.stop): call
                for trial in self.trials
                for call in trial.calls(each)
            }
            self.launched = each + 1  # one that fails is not carried out twice
            self._launch(list(calls.values()), LAUNCHES[each])

    def compare(self) -> None:
        """Collect what went wrong in each trial, from what the launches left."""
        outcomes = self._outcomes()
        for trial in self.trials:
            self._judge(trial, outcomes)

    def held(self) -> frozenset[Group]:
        """The pairs that are in a row of which nothing went wrong."""
        good = [pairs_of(trial.row) for trial in self.trials if not trial.wrong]
        return frozenset(set[Group]().union(*good))

    def suspects(self, trial: Trial) -> list[str]:
        """A failed row's pairs that are in no good row."""
        return [describe(pair) for pair in pairs_of(trial.row) - self.held()]

    def _outcomes(self) -> list[dict[str, Any]]:
        file = self.folder / "outcomes.jsonl"
        if not file.exists():
            return []
        return [json.loads(line) for line in file.read_text().splitlines()]

    def _launch(self, calls: list[Task], workers: int) -> None:
        """Carry out the calls; after a crash, those that come after it."""
        tasks = self.folder / "tasks.json"
        command = [sys.executable, "-m", "tests.parallel.crossings.worker"]
        env = {
            "OMP_NUM_THREADS": "1",
            "HOROVOD_CYCLE_TIME": "0.2",
            "OMPI_MCA_mpi_yield_when_idle": "1",
            "PYTHONPATH": str(ROOT),
        }
        for _ in range(_CRASHES):
            tasks.write_text(json.dumps([asdict(call) for call in calls]))
            before = len(self._outcomes())
            arguments = [*command, str(self.folder), str(tasks)]
            done = (
                run(arguments, cwd=ROOT, env=env, timeout=LIMIT)
                if workers == 1
                else mpirun(workers, arguments, cwd=ROOT, env=env, timeout=LIMIT)
            )
            done_here = len(self._outcomes()) - before
            if done.code == 0 and done_here == len(calls):
                return
            assert done_here, done.output
            calls = calls[done_here:]
            if not calls:
                return
        raise AssertionError(f"{_CRASHES} crashes: {done.output}")

    def _judge(self, trial: Trial, outcomes: list[dict[str, Any]]) -> None:
        """Collect what its calls saw, and compare what they left."""
        names = {trial.name, f"{trial.name}-whole", trial.reference}
        for outcome in outcomes:
            if outcome["name"] in names:
                trial.wrong += outcome["wrong"]
                if outcome["refusal"] is not None:
                    trial.wrong.append(f"refused when it starts: {outcome['refusal']}")
        trial.wrong = list(dict.fromkeys(trial.wrong))
        if not find_checkpoints(self.folder / trial.name):
            return
        ours = last_checkpoint(self.folder / trial.name)
        trial.wrong += [
            f"{place} is not finite"
            for place, tree in ours.items()
            if not all(bool(each.isfinite().all()) for each in tensors(tree))
        ]
        steps = [row["step"] for row in read_metrics(self.folder / trial.name)]
        if not steps or steps != sorted(set(steps)):
            trial.wrong.append(f"a row of metrics for a step, once: {steps}")
        whole = self.folder / f"{trial.name}-whole"
        if whole.exists():
            unlike = list(differences(last_checkpoint(whole), ours))
            if unlike:
                trial.wrong.append(
                    "a run that goes on ends with the same bits, not "
                    + ", ".join(unlike[:3])
                )
        if trial.reference is not None:
            trial.wrong += unequal(
                self.folder / trial.reference, self.folder / trial.name
            )


def last_checkpoint(run: Path) -> dict[str, Any]:
    """All files of the newest checkpoint."""
    folder = find_checkpoints(run)[-1]
    return {file.name: load_file(file) for file in sorted(folder.glob("*.pt"))}


def unequal(reference: Path, ours: Path) -> Iterator[str]:
    """Where weights are not the reference's, measured by how far those moved."""
    first, *_, last = find_checkpoints(reference)
    start, end = (load_file(folder / "model.pt") for folder in (first, last))
    result = load_file(find_checkpoints(ours)[-1] / "model.pt")
    for part in ("model", *average_updates(end)):
        if part in result:
            first_weights = start.get(part, start["model"])
            a, b, c = map(flat, (first_weights, end[part], result[part]))
            off = float((b - c).norm() / (b - a).norm())
            if not off < TOLERANCE:
                yield (
                    f"{part}: the same result as of one worker that takes batches "
                    f"whole (off by {off:.2g} of what training changed)"
                )


def flat(state: dict[str, Tensor]) -> Tensor:
    """All floats of a network in one vector."""
    return torch.cat(
        [each.double().flatten() for each in state.values() if each.is_floating_point()]
    )


def describe(group: Group) -> str:
    """Such as ``attack=free with passes=2``."""
    return " with ".join(f"{feature}={name}" for feature, name in sorted(group))
