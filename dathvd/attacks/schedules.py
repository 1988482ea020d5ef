"""Schedules of an attack's steps, and the classes that targeted attacks aim at."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from dathvd.noise import SampleNoise

STEP_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}
"""Functions of the share of steps done, in [0, 1): the factor of the step size."""

TargetRule = Callable[[Tensor, Tensor, SampleNoise], Tensor]
"""A function of clean logits ``[batch, classes]``, labels and noise: the classes to aim
at, int64 ``[batch]``."""

_TARGET_STREAM = 99


def random_target(clean: Tensor, labels: Tensor, noise: SampleNoise) -> Tensor:
    """Any class but the label, all equally likely."""
    others = max(clean.shape[1] - 1, 1)
    draw = noise.uniform(labels.shape, _TARGET_STREAM).mul_(others)
    shift = draw.to(labels.dtype).clamp_(max=others - 1).add_(1)
    return (labels + shift).remainder(clean.shape[1])


def least_likely_target(clean: Tensor, labels: Tensor, noise: SampleNoise) -> Tensor:
    """The class of the lowest clean logit, the label left out."""
    return clean.scatter(1, labels[:, None], math.inf).argmin(dim=1)


TARGETS: dict[str, TargetRule | None] = {
    "none": None,
    "random": random_target,
    "least_likely": least_likely_target,
}
