"""An evaluation attack of a user's own."""

from __future__ import annotations

from dathvd.attacks import build_attack
from dathvd.config import AttackConfig
from dathvd.evaluation.attack_kind import EvaluationAttack, place

UPRIGHT = EvaluationAttack(
    build=lambda settings, num_classes: build_attack(
        AttackConfig(norm=settings.norm, epsilon=settings.epsilon, name="fgsm")
    ),
    describe=lambda settings: f"upright {place(settings)}",
    fixed={"num_steps": 1, "restarts": 1},
)
