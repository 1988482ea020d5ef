"""The attacks of an evaluation: one line each."""

from __future__ import annotations

from typing import Any

from dathvd.attacks import build_attack, describe_attack
from dathvd.evaluation.attack_kind import GRID_OPTIONS, EvaluationAttack
from dathvd.evaluation.autoattack import AUTOATTACK
from dathvd.evaluation.random_points import NOISE


def _as_in_training(*options: str, **fixed: Any) -> EvaluationAttack:
    """An attack of ``dathvd.attacks.ATTACKS`` with those values of its settings."""
    return EvaluationAttack(
        build=lambda settings, num_classes: build_attack(settings),
        describe=describe_attack,
        options=frozenset(options),
        fixed=fixed,
        inherits=True,
    )


OWN = _as_in_training()
"""The run's own attack, as its configuration has it."""

EVALUATION_ATTACKS: dict[str, EvaluationAttack] = {
    "none": EvaluationAttack(
        build=lambda settings, num_classes: build_attack(settings),
        describe=describe_attack,
        fixed={"name": "none", "num_steps": 1, "restarts": 1},
    ),
    "fgsm": _as_in_training(name="fgsm", num_steps=1, restarts=1),
    "fgsm_rs": _as_in_training("restarts", name="fgsm_rs", num_steps=1, restarts=1),
    "pgd": _as_in_training(*GRID_OPTIONS, name="pgd"),
    "pgd-margin": _as_in_training(*GRID_OPTIONS, name="pgd", loss="margin"),
    "autoattack": AUTOATTACK,
    "noise": NOISE,
}
