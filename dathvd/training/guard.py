"""The guard against overfitting: catastrophic, in an epoch, and robust, over many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from dathvd.config import AttackConfig, Config
from dathvd.config.evaluation import REACH
from dathvd.data import Dataset, ImageSet, Subset, permutation, unaugmented
from dathvd.errors import UserError
from dathvd.evaluation import evaluate
from dathvd.noise import mix_seed
from dathvd.runtime import Runtime

_HELD_OUT, _PROBE = 0x60, 0x61


@dataclass
class Guard:
    """What the probes have seen, and what was done about it.

    All that it decides follows from the probes' accuracies, which are sums over all
    workers: every rank decides alike.
    """

    config: Config
    images: ImageSet
    """The training images that the probes attack, held out of training."""
    runtime: Runtime
    best: float = 0.0
    """Highest robust accuracy since the last collapse."""
    latest: float | None = None
    """The last probe's robust accuracy; None before the first."""
    good_step: int = 0
    """The last step whose probe was within half a drop of the best: a slow collapse
    passes through steps that are not worth going back to."""
    actions: int = 0
    """Collapses that were acted upon; each has added attack steps."""
    collapses: list[dict[str, Any]] = field(default_factory=list)
    """The step of each collapse, and the accuracies before and after it."""
    best_step: int | None = None
    """The step of the highest probe of all, the first of equals; None before one."""
    best_accuracy: float = -1.0
    """That probe's robust accuracy."""
    averages: dict[str, float] = field(default_factory=dict)
    """Robust accuracies of the weights' averages by name, where there are several."""

    def look(self, model: nn.Module, step: int) -> bool:
        """Probe the model; whether it has collapsed. A collective."""
        return self.judge(self._probe(model), step)

    def compare(self, averages: Mapping[str, nn.Module]) -> None:
        """Probe the weights' averages. A collective."""
        self.averages = {name: self._probe(each) for name, each in averages.items()}

    def _probe(self, model: nn.Module) -> float:
        """The robust accuracy on the held-out images."""
        return evaluate(
            model,
            self.images,
            probe_attack(self.config),
            runtime=self.runtime,
            batch_size=self.config.evaluation.batch_size,
            seed=mix_seed(self.config.seed, _PROBE),
        ).robust

    def judge(self, robust_accuracy: float, step: int) -> bool:
        """Take in a probe's result; whether it is a collapse."""
        self.latest = robust_accuracy
        if robust_accuracy > self.best_accuracy:
            self.best_step, self.best_accuracy = step, robust_accuracy
        if self.config.train.guard.action == "none":
            return False
        drop = self.config.train.guard.drop / 100
        # the accuracies are multiples of 1 / num_samples: rounding decides no case
        if robust_accuracy < self.best - drop - 1e-9:
            seen = {"step": step, "before": self.best, "after": robust_accuracy}
            self.collapses.append(seen)
            self.best = robust_accuracy
            return True
        self.best = max(self.best, robust_accuracy)
        if robust_accuracy >= self.best - drop / 2:
            self.good_step = step
        return False

    @property
    def may_act(self) -> bool:
        """Whether a collapse leads to more than a warning."""
        settings = self.config.train.guard
        acts = settings.action in ("add_steps", "roll_back")
        return acts and self.actions < settings.max_actions

    @property
    def kept_step(self) -> int | None:
        """The step whose checkpoint a collapse would go back to, if to any."""
        rolls_back = self.config.train.guard.action == "roll_back"
        return self.good_step if rolls_back else None

    @property
    def selected_step(self) -> int | None:
        """The step of the best checkpoint, if one is to be kept (``train.select``)."""
        return self.best_step if self.config.train.select == "best" else None

    @property
    def spared_steps(self) -> set[int]:
        """The steps whose checkpoints are kept at any age."""
        steps = (self.kept_step, self.selected_step)
        return {step for step in steps if step is not None}

    def attack(self) -> AttackConfig:
        """The training attack as it is now."""
        added = self.actions * self.config.train.guard.added_steps
        return strengthened(self.config.attack, added)

    def warning(self) -> str:
        """One line about the last collapse and what is done now."""
        seen = self.collapses[-1]
        before, after = 100 * seen["before"], 100 * seen["after"]
        line = (
            f"warning: step {seen['step']}: robust accuracy on held-out images fell "
            f"from {before:.1f} % to {after:.1f} %: catastrophic overfitting"
        )
        if not self.may_act:
            return f"{line}; train with more attack steps or a smaller epsilon"
        steps = self.config.train.guard.added_steps
        kept = self.kept_step
        back = "" if kept is None else f"back to step {kept}, "
        return f"{line}; {back}{steps} attack steps more from here"

    def describe(self) -> dict[str, Any]:
        """What ``result.json`` says of the guard."""
        return {
            "robust_accuracy": self.latest,
            "collapses": self.collapses,
            "added_steps": self.actions * self.config.train.guard.added_steps,
        }

    def state_dict(self) -> dict[str, Any]:
        """All that the future depends on, in plain values."""
        return {
            "best": self.best,
            "latest": self.latest,
            "good_step": self.good_step,
            "actions": self.actions,
            "collapses": [dict(seen) for seen in self.collapses],
            "best_step": self.best_step,
            "best_accuracy": self.best_accuracy,
            "averages": dict(self.averages),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what was saved; what an older version did not save stays."""
        for name in self.state_dict():
            setattr(self, name, state.get(name, getattr(self, name)))


def probe_attack(config: Config) -> AttackConfig:
    """PGD from one random start in the ball of the training attack."""
    return config.attack.pgd(config.train.guard.num_steps)


def strengthened(attack: AttackConfig, added: int) -> AttackConfig:
    """The attack with more steps; one of a single step becomes PGD in the same ball.

    An attack from outside of dathvd stays itself, with a larger ``num_steps``.
    """
    if added == 0:
        return attack
    if attack.follows_num_steps:
        return attack.model_copy(update={"num_steps": attack.num_steps + added})
    change = {
        "name": "pgd",
        "options": {},
        "num_steps": 1 + added,
        "step_size": REACH * attack.epsilon / (1 + added),
        "random_start": True,
    }
    return attack.model_copy(update=change)


def hold_out(dataset: Dataset, config: Config) -> tuple[Dataset, ImageSet]:
    """The data set without some of its own training images, and those images.

    Raises:
        UserError: half of them or more would be held out.
    """
    count, own = config.train.guard.num_samples, len(dataset.train) - dataset.num_extra
    if 2 * count >= own:
        raise UserError(
            f"train.guard.num_samples: {count} of {own} training images are too many "
            f"to hold out; take at most {max((own - 1) // 2, 1)}"
        )
    order = permutation(own, mix_seed(config.seed, _HELD_OUT), 0)
    kept = torch.cat(
        [order[count:].sort().values, torch.arange(own, len(dataset.train))]
    )
    held_out = Subset(dataset.train, order[:count].sort().values)
    rest = replace(dataset, train=Subset(dataset.train, kept))
    return rest, unaugmented(held_out, dataset.image_shape)
