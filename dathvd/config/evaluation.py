"""The attack and the sizes of an evaluation."""

from __future__ import annotations

from pydantic import field_validator

from dathvd.config.attack import REACH, AttackConfig
from dathvd.config.base import Count, Natural, Pixel, Section

__all__ = ["REACH", "EvaluationAttackConfig", "EvaluationConfig"]


class EvaluationAttackConfig(AttackConfig):
    """An attack with the defaults of an evaluation.

    In a whole configuration that sets the ball of training's attack, ``norm`` and
    ``epsilon`` are that one's where they are not set here, and so is a union of
    ``balls``; ``step_size`` is 2.5 epsilon / num_steps.
    """

    epsilon: Pixel = 0.15
    """Radius of the ball, in pixel units of [0, 1]; training's where it is not set."""
    step_size: Pixel = 0.15 / 8
    """Length of the first step of pgd, in the same units; 2.5 epsilon / num_steps where
    it is not set."""
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
    pictures: bool = True
    """Whether a run ends by drawing training.png, trust_ratios.png and examples.png,
    which takes two seconds."""

    @field_validator("attack")
    @classmethod
    def _attack_works_alone(
        cls, attack: EvaluationAttackConfig
    ) -> EvaluationAttackConfig:
        if attack.name == "free":
            raise ValueError("free works in training only: take pgd or fgsm")
        if attack.name == "n_fgsm":
            raise ValueError("n_fgsm leaves the ball: take pgd or fgsm_rs")
        if attack.combine in ("average", "sample"):
            raise ValueError(
                f"combine {attack.combine} is of training: an evaluation takes the "
                "worst ball, max"
            )
        return attack
