"""The attack and the sizes of an evaluation."""

from __future__ import annotations

from pydantic import field_validator

from dathvd.config.attack import AttackConfig
from dathvd.config.base import Count, Natural, Section


class EvaluationConfig(Section):
    """Clean and robust accuracy on the test set."""

    attack: AttackConfig = AttackConfig(
        epsilon=0.15, step_size=0.15 / 8, num_steps=20, restarts=2
    )
    """The attack of the final evaluation."""
    batch_size: Count = 64
    """Images that one worker evaluates at once."""
    max_samples: Natural = 0
    """Evaluate the first so many images; 0 takes all."""

    @field_validator("attack")
    @classmethod
    def _attack_works_alone(cls, attack: AttackConfig) -> AttackConfig:
        if attack.name == "free":
            raise ValueError("free works in training only: take pgd or fgsm")
        return attack
