"""What an evaluation must know of an attack beside the attack itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dathvd.attacks import Attack
from dathvd.config.evaluation import EvaluationAttackConfig


@dataclass(frozen=True)
class EvaluationAttack:
    """An entry of ``EVALUATION_ATTACKS``: how cells of a grid are made and named.

    The settings of a cell are, later ones winning: those of the run's own attack if
    the entry ``inherits`` them, else its norm alone; the entry's ``fixed`` values; the
    grid's radius and norm, and what the grid says of the entry's ``options``.
    """

    build: Callable[[EvaluationAttackConfig, int], Attack]
    """From a cell's settings and the number of classes to the attack."""
    describe: Callable[[EvaluationAttackConfig], str]
    """The attack with its settings in words, such as ``noise linf epsilon 0.1, 9
    draws``."""
    options: frozenset[str] = frozenset()
    """Which of ``GRID_OPTIONS`` the attack takes; the others mean nothing to it."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Values of settings that make this attack what it is."""
    inherits: bool = False
    """Whether the run's other settings (loss, momentum, model mode, …) are taken."""
    in_a_ball: bool = True
    """Whether it stays in the ball of the settings; to others unions mean nothing."""


GRID_OPTIONS = ("num_steps", "step_size", "restarts")
"""What a grid can vary beside the attack, the norm and the radius."""


def place(settings: EvaluationAttackConfig) -> str:
    """Norm and radius in words."""
    return f"{settings.norm} epsilon {settings.epsilon:.4g}"
