"""One tiny run of a row of features, watched while it trains.

The watch puts a batch that is not finite into one step where the row asks for it, tells
the guard of a collapse, and holds what every step must: images within the ball, moved
by the attack, and nothing changed by a step that is skipped.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dathvd.attacks import build_attack
from dathvd.config import Config
from dathvd.errors import UserError
from dathvd.noise import SampleNoise
from dathvd.objectives import Objective, Terms
from dathvd.runtime import Runtime
from dathvd.training.batches import Batch, BatchPlan
from dathvd.training.guard import Guard
from dathvd.training.run import train
from dathvd.training.step import Trainer
from tests.parallel.crossings.features import configure

STOP = 3
"""Steps before the stop of a run that goes on."""
POISONED = STOP - 1
"""The step whose batch is not finite: what it spoils would be saved."""
COLLAPSED = 4
"""No probe before so many steps sees a collapse."""


@dataclass(frozen=True)
class Task:
    """A call of ``train``."""

    name: str
    """Of the whole run; a run that was stopped goes on under its name."""
    row: dict[str, str]
    stop: bool = False
    """Leave after ``STOP`` steps."""


@dataclass
class Watch:
    """What one run did wrong, in words."""

    config: Config
    poison: bool
    rank: int
    wrong: list[str] = field(default_factory=list)
    steps: int = 0
    """Calls of ``Trainer.step``."""
    trainer: Trainer | None = None
    """Whose steps are watched."""
    start: dict[str, Tensor] = field(default_factory=dict)
    """Its weights before the first one."""
    broken: bool = False
    """Whether this step's attack returned images that are not finite."""

    def note(self, law: str, holds: bool) -> None:
        """Keep a law that does not hold, once."""
        if not holds and law not in self.wrong:
            self.wrong.append(law)

    def still(self) -> list[str]:
        """The weight tensors of two dimensions or more that are as at the start."""
        if self.trainer is None:
            return []
        weights = dict(self.trainer.model.named_parameters())
        return [
            name
            for name, before in self.start.items()
            if before.dim() > 1 and torch.equal(before, weights[name])
        ]

    def see(self, images: Tensor, attacked: Tensor) -> None:
        """Hold an attack to its ball."""
        if not len(images) or not bool(images.isfinite().all()):
            return
        if not bool(attacked.isfinite().all()):
            # a batch before it in this step spoilt the network's statistics
            self.broken = True
            return
        attack = self.config.attack
        copies = len(attacked) // len(images)  # a union may train on all its balls
        images = images.repeat(copies, *(1 for _ in images.shape[1:]))
        change = attacked.detach() - images
        if attack.name == "none":
            self.note("no attack, and images moved", not change.any())
            return
        away, reach = change.flatten(1), build_attack(attack).reach
        orders = {"linf": torch.inf, "l2": 2, "l1": 1}
        shares = torch.stack(
            [away.norm(orders[norm], dim=1) / e for norm, e in attack.threat.items()]
        )
        slack = 1e-5 + 1e-6 / min(attack.threat.values())
        inside = bool((shares.amin(dim=0) <= reach + slack).all())
        self.note("attacked images lie in the ball", inside)
        moved = bool((shares.amax(dim=0) >= 1 / 10).any())
        self.note("the attack moves images", moved)


class Watched(Objective):
    """An objective that shows the watch what it is given."""

    def __init__(self, objective: Objective, watch: Watch) -> None:
        self.objective, self.watch = objective, watch
        self.class_means = objective.class_means

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        adversarial: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
    ) -> Terms:
        self.watch.see(images, adversarial)
        return self.objective(model, images, adversarial, labels, weights)

    def begin(self, noise: SampleNoise) -> None:
        self.objective.begin(noise)

    def attacked(self, model: nn.Module) -> nn.Module:
        return self.objective.attacked(model)


def snapshot(trainer: Trainer) -> dict[str, Any]:
    """All that a skipped step must leave alone, copied."""
    optimizer: Any = trainer.optimizer
    averages = trainer.averages.items()
    return {
        "the network": _copied(trainer.model.state_dict()),
        "the optimizer": _copied(optimizer.state_dict()),
        "the averages": {
            name: {**_copied(each.network.state_dict()), "updates": each.updates}
            for name, each in averages
        },
        "residuals": _copied(optimizer.exchanger.state_dict()["buckets"]),
    }


def _copied(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, Mapping):
        return {key: _copied(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_copied(value) for value in tree]
    return tree


def differences(ours: Any, theirs: Any, place: str = "") -> Iterator[str]:
    """Where two trees of tensors and plain values are not equal bit by bit."""
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        same = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        if not same or not torch.equal(_bits(ours), _bits(theirs)):
            yield place
    elif isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        if ours.keys() != theirs.keys():
            yield f"{place}.keys"
            return
        for key, value in ours.items():
            yield from differences(value, theirs[key], f"{place}.{key}")
    elif isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)):
        if len(ours) != len(theirs):
            yield f"{place}.length"
            return
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(a, b, f"{place}.{index}")
    elif ours != theirs and not (ours != ours and theirs != theirs):
        yield place


def _bits(tensor: Tensor) -> Tensor:
    """The tensor's bytes, so that NaN equals NaN."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)


def tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor of a tree."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from tensors(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from tensors(value)


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Have the product's steps, batches and probes report to the watch."""
    step, batches, judge = Trainer.step, BatchPlan.step, Guard.judge

    @functools.wraps(step)
    def watched_step(self: Trainer, *arguments: Any, **options: Any) -> None:
        watch.steps += 1
        if watch.trainer is not self:
            watch.trainer, watch.start = self, _copied(
                dict(self.model.named_parameters())
            )
        if not isinstance(self.objective, Watched):
            self.objective = Watched(self.objective, watch)
        before = snapshot(self) if watch.poison else {}
        watch.broken = False
        step(self, *arguments, **options)
        exchanger: Any = self.optimizer.exchanger  # type: ignore[attr-defined]
        only_skipped = exchanger.last_skipped or not watch.broken
        watch.note("a broken attack's step is skipped", only_skipped)
        if watch.poison and exchanger.last_skipped:
            after = snapshot(self)
            for name, kept in before.items():
                same = next(differences(kept, after[name]), None) is None
                watch.note(f"a skipped step leaves {name} as before", same)

    @functools.wraps(batches)
    def poisoned(self: BatchPlan, step: int) -> Iterator[Batch]:
        for place, batch in enumerate(batches(self, step)):
            # the step's first image: the same one for any workers and passes
            if watch.poison and (step, place, self.rank) == (POISONED, 0, 0):
                images = batch.images.clone()
                images[0] = torch.nan
                batch = replace(batch, images=images)
            yield batch

    @functools.wraps(judge)
    def told(self: Guard, robust_accuracy: float, step: int) -> bool:
        fallen = step >= COLLAPSED and not self.actions
        return judge(self, 0.1 if fallen else 0.9, step)

    with contextlib.ExitStack() as stack:
        for owner, name, new in (
            (Trainer, "step", watched_step),
            (BatchPlan, "step", poisoned),
            (Guard, "judge", told),
        ):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, new)
        yield


def leave_out_what_is_slow() -> None:
    """Draw no pictures and wait for no disk: both take longer than the run."""
    os.fsync = lambda fd: None
    for name, module in list(sys.modules.items()):
        if name.startswith("dathvd."):
            for drawing in ("plot_training", "plot_trust_ratios", "plot_examples"):
                if hasattr(module, drawing):
                    setattr(module, drawing, lambda *arguments, **options: None)


def options(folder: Path) -> tuple[str, ...]:
    """What all tasks say of their data."""
    return (f"data.root={folder / 'digits.npz'}",)


def carry_out(task: Task, folder: Path, runtime: Runtime) -> dict[str, Any]:
    """Run a task in ``folder``; what this rank saw go wrong, or the refusal."""
    more = options(folder)
    if task.stop:
        more += (f"train.max_steps={STOP}",)
    config = configure(task.row, more, str(folder / "extra.npz"))
    watch = Watch(config, task.row["step"] == "one skipped", runtime.rank)
    try:
        with watching(watch), contextlib.redirect_stdout(io.StringIO()):
            train(config, folder / task.name, runtime)
    except UserError as error:
        refusal = str(error)
        if watch.steps:
            watch.note(f"refused after {watch.steps} steps: {refusal}", False)
        return {"wrong": watch.wrong, "refusal": refusal}
    watch.note("training changes every weight tensor", not watch.still())
    return {"wrong": watch.wrong, "refusal": None}


def describe_failure() -> str:
    """The exception that is being handled, with where it came from."""
    lines = traceback.format_exc().strip().splitlines()
    return " | ".join(line.strip() for line in [*lines[-5:]])
