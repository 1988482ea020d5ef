"""The attacks of an evaluation that are those of training, with settings of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dathvd.attacks import build_attack, describe_attack
from dathvd.components import EVALUATION_ATTACKS as _EVALUATION_ATTACKS
from dathvd.evaluation.attack_kind import GRID_OPTIONS, EvaluationAttack

EVALUATION_ATTACKS: Mapping[str, EvaluationAttack] = _EVALUATION_ATTACKS
"""The attacks of an evaluation by name; their places are in ``dathvd.components``."""


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

NONE = EvaluationAttack(
    build=lambda settings, num_classes: build_attack(settings),
    describe=describe_attack,
    fixed={"name": "none", "num_steps": 1, "restarts": 1},
    in_a_ball=False,
)
FGSM = _as_in_training(name="fgsm", num_steps=1, restarts=1)
FGSM_RS = _as_in_training("restarts", name="fgsm_rs", num_steps=1, restarts=1)
PGD = _as_in_training(*GRID_OPTIONS, name="pgd")
PGD_MARGIN = _as_in_training(*GRID_OPTIONS, name="pgd", loss="margin")
APGD = _as_in_training("num_steps", "restarts", name="apgd", target="none")
