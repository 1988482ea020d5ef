"""The norms: what a start, a step and a projection are in each."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dathvd.noise import SampleNoise

_TINY = 1e-12
"""Keeps a zero gradient zero where it is divided by its norm."""


class Ball(ABC):
    """All points within ``epsilon`` of an image, the box [0, 1] apart.

    Args:
        epsilon: the radius, at least 0, in pixel units.
    """

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon

    @abstractmethod
    def uniform(self, images: Tensor, noise: SampleNoise, stream: int) -> Tensor:
        """A perturbation drawn uniformly from the ball, shaped as ``images``."""

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The unit step of steepest ascent for each sample's gradient."""

    @abstractmethod
    def clip(self, perturbation: Tensor) -> Tensor:
        """The nearest perturbation of each sample within the ball."""

    def project(self, points: Tensor, images: Tensor) -> Tensor:
        """The points moved into the ball around ``images``, then into [0, 1]."""
        return self.clip(points - images).add_(images).clamp_(0.0, 1.0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(epsilon={self.epsilon:g})"


class LinfBall(Ball):
    """The largest change of a value is at most ``epsilon``."""

    def uniform(self, images: Tensor, noise: SampleNoise, stream: int) -> Tensor:
        """A perturbation whose every value is uniform in ±epsilon."""
        draw = noise.uniform(images.shape, stream).to(images.dtype)
        return draw.mul_(2 * self.epsilon).sub_(self.epsilon)

    def direction(self, gradient: Tensor) -> Tensor:
        """The sign of every value of the gradient."""
        return gradient.sign()

    def clip(self, perturbation: Tensor) -> Tensor:
        """The perturbation with every value clamped to ±epsilon."""
        return perturbation.clamp(-self.epsilon, self.epsilon)


class L2Ball(Ball):
    """The Euclidean length of a sample's change is at most ``epsilon``."""

    def uniform(self, images: Tensor, noise: SampleNoise, stream: int) -> Tensor:
        """A point in a normal direction, at a radius of density r^(n-1)."""
        count = math.prod(images.shape[1:])
        normal = noise.normal(images.shape, stream).to(images.dtype)
        shape = (len(images),) + (1,) * (images.dim() - 1)
        radius = noise.uniform(shape, stream).to(images.dtype).pow_(1 / max(count, 1))
        return self.direction(normal).mul_(radius.mul_(self.epsilon))

    def direction(self, gradient: Tensor) -> Tensor:
        """The gradient at length 1, or 0 where it is 0."""
        # the gradient is scaled first, as squares of values near 1e-25 are 0 in float32
        largest = _length(gradient, torch.inf)
        scaled = gradient / largest.clamp_min_(torch.finfo(gradient.dtype).tiny)
        unit: Tensor = scaled.div_(_length(scaled).clamp_min_(_TINY))
        return unit

    def clip(self, perturbation: Tensor) -> Tensor:
        """The perturbation, shortened to length ``epsilon`` where it is longer."""
        length = _length(perturbation).clamp_min_(_TINY)
        return perturbation * (self.epsilon / length).clamp_max_(1.0)


BALLS: dict[str, type[Ball]] = {"linf": LinfBall, "l2": L2Ball}


def _length(values: Tensor, order: float = 2.0) -> Tensor:
    """The norm of each sample, ``[batch, 1, ...]``."""
    shape = (len(values),) + (1,) * (values.dim() - 1)
    length: Tensor = torch.linalg.vector_norm(
        values.unsqueeze(1).flatten(1), ord=order, dim=1
    )
    return length.view(shape)
