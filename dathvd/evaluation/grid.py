"""The cells of an evaluation's grid: an attack, at a radius, with so many steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from dathvd.attacks import BALLS, Attack
from dathvd.attacks.union import Union
from dathvd.config import explain
from dathvd.config.evaluation import REACH, EvaluationAttackConfig
from dathvd.errors import UserError, choose
from dathvd.evaluation.attack_kind import GRID_OPTIONS, EvaluationAttack
from dathvd.evaluation.attacks import EVALUATION_ATTACKS, OWN


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
    def kind(self) -> EvaluationAttack:
        """What the registry says of the attack.

        Raises:
            UserError: it has no entry and is not the run's own.
        """
        return _kind(self.attack, self.settings)

    def threat(self) -> dict[str, Any]:
        """Norm and radius, or a union's, whose radius is the largest one."""
        settings = self.settings
        if not settings.balls:
            return {"norm": settings.norm, "epsilon": settings.epsilon}
        radius = max(settings.balls.values())
        return {"norm": "union", "epsilon": radius, "balls": dict(settings.balls)}

    def takes(self, option: str) -> bool:
        """Whether one of ``GRID_OPTIONS`` means something for it."""
        return option in self.kind.options

    def describe(self) -> str:
        """One line such as ``PGD-20 linf epsilon 0.15 step 0.019, 2 restarts``."""
        kind, balls = self.kind, self._balls()
        return " or ".join(kind.describe(settings) for settings in balls.values())

    def build(self, num_classes: int) -> Attack:
        """The attack.

        Raises:
            UserError: a package is missing, or the task does not fit.
        """
        kind, balls = self.kind, self._balls()
        attacks: dict[str, Attack] = {
            norm: kind.build(settings, num_classes) for norm, settings in balls.items()
        }
        return Union(attacks) if len(attacks) > 1 else next(iter(attacks.values()))

    def _balls(self) -> dict[str, EvaluationAttackConfig]:
        """The settings in each ball of a union; steps that see all balls stay whole."""
        settings = self.settings
        if not settings.balls or settings.combine == "steps":
            return {settings.norm: settings}
        return {norm: settings.in_ball(norm, e) for norm, e in settings.balls.items()}


@dataclass(frozen=True)
class Grid:
    """What the cells are made from; None and empty keep the run's own."""

    attacks: tuple[str, ...] = ()
    epsilons: tuple[float, ...] = ()
    num_steps: tuple[int, ...] = ()
    step_size: float | None = None
    restarts: int | None = None
    norm: str | None = None
    balls: Mapping[str, float] | None = None
    """A union of balls by their norms; the worst of them counts."""

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
        attacks = self.attacks or (own.name,)
        self._check_options(attacks, own)
        self._check_ball(own)
        own = self._in_named_ball(own)
        union, found = self._union(own), dict[str, Cell]()
        for epsilon in sorted(set(self.epsilons)) or [own.epsilon]:
            # within radius 0 all attacks are the same
            for attack in attacks if epsilon or union else ("none",):
                for num_steps in self.num_steps or (own.num_steps,):
                    cell = self._cell(own, attack, epsilon, num_steps)
                    found.setdefault(cell.key, cell)
        return list(found.values())

    def _check_options(
        self, attacks: Sequence[str], own: EvaluationAttackConfig
    ) -> None:
        """Refuse names without an entry, and options that no attack here takes.

        Raises:
            UserError: there is one.
        """
        kinds = [_kind(name, own) for name in attacks]
        for option in GRID_OPTIONS:
            if getattr(self, option) in (None, ()):
                continue
            if not any(option in kind.options for kind in kinds):
                takers = [
                    n for n, k in EVALUATION_ATTACKS.items() if option in k.options
                ]
                raise UserError(
                    f"--{option.replace('_', '-')}: {', '.join(attacks)} has none; "
                    f"leave it out, or add one of {', '.join(takers)}"
                )

    def _check_ball(self, own: EvaluationAttackConfig) -> None:
        """Refuse what a union does not take, and half a ball that is not the run's.

        Raises:
            UserError: there is some.
        """
        if self.balls is not None and (self.norm is not None or self.epsilons):
            given = "--epsilon" if self.norm is None else "--norm"
            raise UserError(
                f"{given}: the balls of --balls have norms and radii of their own; "
                f"leave {given} out, or --balls"
            )
        if self._union(own) and self.step_size is not None:
            raise UserError(
                "--step-size: in a union steps have 2.5 epsilon / steps of each ball; "
                "leave it out, or name one ball by --norm and --epsilon"
            )
        norm = self.norm or own.norm
        whole = self.norm is not None and bool(self.epsilons)
        if whole or norm in own.threat or norm not in BALLS or self.balls is not None:
            return
        if self.norm is not None or any(self.epsilons):
            missing = "--norm" if self.norm is None else "--epsilon"
            raise UserError(
                f"{missing}: must be given, as norm {norm} is another one than the "
                f"run's {' and '.join(own.threat)}, whose radius says nothing of it"
            )

    def _in_named_ball(self, own: EvaluationAttackConfig) -> EvaluationAttackConfig:
        """The run's attack; in that ball of its union alone which the norm names."""
        for norm, epsilon in own.balls.items():
            if norm == self.norm:
                return own.in_ball(norm, epsilon)
        return own

    def _cell(
        self, own: EvaluationAttackConfig, attack: str, epsilon: float, num_steps: int
    ) -> Cell:
        kind = _kind(attack, own)
        base: dict[str, Any] = {"norm": own.norm}
        if kind.inherits:
            base = own.model_dump()
        base["balls"] = self._union(own)
        if not kind.in_a_ball:
            base["balls"] = {}
        name = kind.fixed.get("name", own.name)
        if not base["balls"] or name != "pgd":
            base.pop("combine", None)  # of steps in all balls, which PGD alone has
        if name != own.name:
            base.pop("options", None)  # they are the other attack's
        given: dict[str, Any] = {
            "num_steps": num_steps,
            "step_size": self._step_size(own, epsilon, num_steps),
            "restarts": self.restarts,
        }
        changes: dict[str, Any] = {
            **kind.fixed,
            **{name: given[name] for name in kind.options if given[name] is not None},
            "epsilon": epsilon,
        }
        if self.norm is not None:
            changes["norm"] = self.norm
        try:
            settings = EvaluationAttackConfig.model_validate({**base, **changes})
        except ValidationError as error:
            raise UserError(f"evaluate: {explain(error)}") from None
        return Cell(attack, settings)

    def _union(self, own: EvaluationAttackConfig) -> dict[str, float]:
        """The balls of a union; none where one ball is named."""
        if self.balls is not None:
            return dict(self.balls)
        named = self.norm is not None or self.epsilons
        return {} if named else {norm: radius for norm, radius in own.balls.items()}

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


def _kind(name: str, settings: EvaluationAttackConfig) -> EvaluationAttack:
    """The entry of that name; the run's own attack may do without one.

    Raises:
        UserError: there is no entry.
    """
    if name == settings.name and name not in EVALUATION_ATTACKS:
        return OWN
    return choose("--attack", name, EVALUATION_ATTACKS)


def radii(cells: Sequence[Cell]) -> Iterator[tuple[float, list[int]]]:
    """Each radius, and the places of all cells that stay within it."""
    reached = [cell.threat()["epsilon"] for cell in cells]
    for epsilon in sorted(set(reached)):
        yield epsilon, [place for place, r in enumerate(reached) if r <= epsilon]
