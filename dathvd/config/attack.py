"""The inner maximisation: how adversarial examples are made."""

from __future__ import annotations

from typing import Literal

from dathvd.config.base import Count, Natural, Pixel, Section


class AttackConfig(Section):
    """An attack on images in [0, 1] within a ball of radius ``epsilon``."""

    name: Literal["none", "pgd", "fgsm"] = "pgd"
    """none (plain training), pgd, or fgsm (one step)."""
    norm: Literal["linf", "l2"] = "linf"
    """The norm of the ball."""
    epsilon: Pixel = 0.15
    """Radius of the ball, in pixel units of [0, 1]; "8/255" may be written so."""
    step_size: Pixel = 0.15 / 4
    """Length of one step, in the same units."""
    num_steps: Natural = 7
    """Number of gradient steps."""
    random_start: bool = True
    """Start from a uniformly drawn point of the ball, else from the image."""
    restarts: Count = 1
    """Runs from different starts; the worst one counts for each image."""
    loss: Literal["cross_entropy", "margin", "kl"] = "cross_entropy"
    """What is maximised; margin is Carlini and Wagner's."""
    model_mode: Literal["eval", "train"] = "eval"
    """The model's mode during the attack; its statistics are untouched either way."""
