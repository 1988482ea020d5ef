"""The update and its schedule."""

from __future__ import annotations

from typing import Literal

from dathvd.config.base import Natural, NonNegative, Positive, Section, Share


class OptimizerConfig(Section):
    """An optimizer of ``dathvd.optim.OPTIMIZERS``."""

    name: Literal["lamb", "lars", "sgd", "adamw"] = "lamb"
    """lamb and lars have layer-wise adaptive learning rates."""
    lr: Positive = 0.02
    """The learning rate at the end of the warm-up."""
    momentum: Share = 0.9
    """Momentum of lars and sgd."""
    beta1: Share = 0.9
    """Decay of the first moment (lamb, adamw)."""
    beta2: Share = 0.999
    """Decay of the second moment (lamb, adamw)."""
    eps: Positive = 1e-6
    """Added to the root of the second moment."""
    weight_decay: NonNegative = 1e-4
    """Weight decay."""


class ScheduleConfig(Section):
    """The learning rate as a pure function of the step."""

    name: Literal["constant", "cosine", "multistep"] = "cosine"
    """The shape after the warm-up."""
    warmup_epochs: NonNegative = 1.0
    """Epochs of linear warm-up, part of the run's epochs."""
    milestones: tuple[Natural, ...] = ()
    """Epochs at which multistep multiplies the rate by gamma."""
    gamma: Positive = 0.1
    """The factor of multistep."""
