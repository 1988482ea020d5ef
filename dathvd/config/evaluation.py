"""The attack and the sizes of an evaluation."""

from __future__ import annotations

from pydantic import field_validator

from dathvd.config.attack import AttackConfig
from dathvd.config.base import Count, Natural, Pixel, Section


class EvaluationAttackConfig(AttackConfig):
    """An attack with the defaults of an evaluation, which a section that names only
    some fields keeps."""

    epsilon: Pixel = 0.15
    """Radius of the ball, in pixel units of [0, 1]."""
    step_size: Pixel = 0.15 / 8
    """Length of the first step of pgd, in the same units."""
    num_steps: Natural = 20
    """Number of gradient steps of pgd."""
    restarts: Count = 2
    """Runs from different starts; the worst one counts for each image."""


class EvaluationConfig(Section):
    """Clean and robust accuracy on the test set."""

    attack: EvaluationAttackConfig = EvaluationAttackConfig()
    """The attack of the final evaluation."""
    batch_size: Count = 64
    """Images that one worker evaluates at once."""
    max_samples: Natural = 0
    """Evaluate the first so many images; 0 takes all."""

    @field_validator("attack")
    @classmethod
    def _attack_works_alone(
        cls, attack: EvaluationAttackConfig
    ) -> EvaluationAttackConfig:
        if attack.name == "free":
            raise ValueError("free works in training only: take pgd or fgsm")
        return attack
