"""The cells of an evaluation's grid: an attack, at a radius, with so many steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from dathvd.attacks import Attack, build_attack
from dathvd.config import explain
from dathvd.config.evaluation import EvaluationAttackConfig
from dathvd.errors import UserError, choose
from dathvd.evaluation.autoattack import AutoAttack
from dathvd.evaluation.random_points import RandomPoints

REACH = 2.5
"""Length of all steps together over epsilon, at least: every point of the ball can be
reached from every other (Madry et al., ICLR 2018, take 2.5 epsilon / num_steps)."""


@dataclass(frozen=True)
class Cell:
    """One attack with all its settings; those that it does not use have defaults."""

    attack: str
    """A name of ``EVALUATION_ATTACKS``."""
    settings: EvaluationAttackConfig

    @property
    def key(self) -> str:
        """16 hex digits that tell cells apart by all that decides their result."""
        tree = {"attack": self.attack, **self.settings.model_dump()}
        text = json.dumps(tree, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def takes_steps(self) -> bool:
        """Whether ``num_steps`` means something for it."""
        return self.attack in ("pgd", "pgd-margin", "noise")

    @property
    def has_step_size(self) -> bool:
        """Whether ``step_size`` means something for it."""
        return self.attack in ("pgd", "pgd-margin")

    def build(self, num_classes: int) -> Attack:
        """The attack.

        Raises:
            UserError: a package is missing, or the task does not fit.
        """
        return EVALUATION_ATTACKS[self.attack](self.settings, num_classes)


def _from_config(settings: EvaluationAttackConfig, num_classes: int) -> Attack:
    return build_attack(settings)


EVALUATION_ATTACKS: dict[str, Callable[[EvaluationAttackConfig, int], Attack]] = {
    "none": _from_config,
    "fgsm": _from_config,
    "fgsm_rs": _from_config,
    "pgd": _from_config,
    "pgd-margin": _from_config,
    "autoattack": lambda settings, num_classes: AutoAttack(
        settings.norm, settings.epsilon, num_classes=num_classes
    ),
    "noise": lambda settings, num_classes: RandomPoints(
        settings.norm, settings.epsilon, draws=settings.num_steps
    ),
}


@dataclass(frozen=True)
class Grid:
    """What the cells are made from; None and empty keep the run's own."""

    attacks: tuple[str, ...] = ()
    epsilons: tuple[float, ...] = ()
    num_steps: tuple[int, ...] = ()
    step_size: float | None = None
    restarts: int | None = None
    norm: str | None = None

    def cells(self, own: EvaluationAttackConfig) -> list[Cell]:
        """All combinations, smaller radii first, none twice.

        An attack without steps comes once for each radius. Where radius or number of
        steps change and ``step_size`` is not given, it is the run's share of epsilon,
        or ``REACH * epsilon / num_steps`` where that is longer.

        Args:
            own: the attack of the run's evaluation.

        Raises:
            UserError: a name or a value is not valid.
        """
        found: dict[str, Cell] = {}
        for epsilon in sorted(set(self.epsilons)) or [own.epsilon]:
            # within radius 0 all attacks are the same
            for attack in (self.attacks or (own.name,)) if epsilon else ("none",):
                choose("--attack", attack, EVALUATION_ATTACKS)
                for num_steps in self.num_steps or (own.num_steps,):
                    cell = self._cell(own, attack, epsilon, num_steps)
                    found.setdefault(cell.key, cell)
        return list(found.values())

    def _cell(
        self, own: EvaluationAttackConfig, attack: str, epsilon: float, num_steps: int
    ) -> Cell:
        changes: dict[str, Any] = {"epsilon": epsilon}
        if self.norm is not None:
            changes["norm"] = self.norm
        if self.restarts is not None:
            changes["restarts"] = self.restarts
        base = own.model_dump()
        if attack in ("pgd", "pgd-margin"):
            changes.update(name="pgd", num_steps=num_steps)
            changes["step_size"] = self._step_size(own, epsilon, num_steps)
            if attack == "pgd-margin":
                changes["loss"] = "margin"
        elif attack == "noise":  # as many points as the others take steps
            base = {"norm": own.norm}
            changes.update(num_steps=num_steps, restarts=1)
        elif attack == "fgsm_rs":
            changes.update(name=attack, num_steps=1)
            changes.setdefault("restarts", 1)
        elif attack == "fgsm":
            changes.update(name=attack, num_steps=1, restarts=1)
        else:  # neither steps nor restarts to choose
            base = {"norm": own.norm, "name": "none" if attack == "none" else "pgd"}
            changes.update(num_steps=1, restarts=1)
        try:
            settings = EvaluationAttackConfig.model_validate({**base, **changes})
        except ValidationError as error:
            raise UserError(f"evaluate: {explain(error)}") from None
        return Cell(attack, settings)

    def _step_size(
        self, own: EvaluationAttackConfig, epsilon: float, num_steps: int
    ) -> float:
        if self.step_size is not None:
            return self.step_size
        if not self.epsilons and not self.num_steps:
            return own.step_size
        share = own.step_size / own.epsilon if own.epsilon else 0.0
        if (epsilon, num_steps) == (own.epsilon, own.num_steps):
            return own.step_size
        return max(share, REACH / max(num_steps, 1)) * epsilon


def radii(cells: Sequence[Cell]) -> Iterator[tuple[float, list[int]]]:
    """Each radius, and the places of all cells that stay within it."""
    for epsilon in sorted({cell.settings.epsilon for cell in cells}):
        yield epsilon, [
            place
            for place, cell in enumerate(cells)
            if cell.settings.epsilon <= epsilon
        ]
