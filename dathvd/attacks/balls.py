"""The norms: what a start, a step and a projection are in each."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from dathvd.noise import SampleNoise

_TINY = 1e-12
"""Keeps a zero gradient zero where it is divided by its norm."""
_RADIUS = 1 << 40
"""Keeps the stream of an L1 start's radius apart from those of its directions."""


class Ball(ABC):
    """All points within ``epsilon`` of an image, the box [0, 1] apart.

    Args:
        epsilon: the radius, at least 0, in pixel units.
    """

    order: ClassVar[float]
    """The p of the Lp norm."""

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon

    @abstractmethod
    def uniform(self, images: Tensor, noise: SampleNoise, stream: int) -> Tensor:
        """A perturbation drawn uniformly from the ball, shaped as ``images``."""

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The unit step of steepest ascent for each sample's gradient."""

    def ascent(self, gradient: Tensor, points: Tensor) -> Tensor:
        """The unit step of steepest ascent from points in the box."""
        return self.direction(gradient)

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

    order = torch.inf

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

    order = 2.0

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


class L1Ball(Ball):
    """The sum of a sample's changes is at most ``epsilon``.

    The steepest step changes a single value, which takes as many steps as there are
    values to be changed. SLIDE changes the share ``density`` with the largest
    gradients, all by the same amount, and none that cannot move as it lies on a face of
    the box (Tramèr and Boneh, Adversarial Training and Robustness for Multiple
    Perturbations, NeurIPS 2019, section 4).

    Args:
        epsilon: the radius, in pixel units.
        density: share of the values that a step changes, in (0, 1].
    """

    order = 1.0

    def __init__(self, epsilon: float, density: float = 0.05) -> None:
        super().__init__(epsilon)
        self.density = density

    def uniform(self, images: Tensor, noise: SampleNoise, stream: int) -> Tensor:
        """A point on a sphere's face, each equally likely, at a radius of density
        r^(n-1): exponential lengths of random signs, scaled."""
        draw = noise.uniform(images.shape, stream).to(images.dtype).mul_(2)
        upper = draw >= 1
        lengths = torch.where(upper, draw - 1, draw).neg_().add_(1).log_().neg_()
        signed = torch.where(upper, lengths, -lengths)
        shape = (len(images),) + (1,) * (images.dim() - 1)
        count = math.prod(images.shape[1:])
        radius = noise.uniform(shape, stream + _RADIUS).to(images.dtype)
        radius = radius.pow_(1 / max(count, 1)).mul_(self.epsilon)
        return signed.mul_(radius / _length(signed, 1).clamp_min_(_TINY))

    def direction(self, gradient: Tensor) -> Tensor:
        """Equal changes along the largest gradients' signs, of sum 1, or 0 for 0."""
        count = math.prod(gradient.shape[1:])
        if count == 0 or len(gradient) == 0:
            return torch.zeros_like(gradient)
        kept = max(math.ceil(self.density * count), 1)
        return sparse_signs(gradient, gradient.new_full((len(gradient),), kept))

    def ascent(self, gradient: Tensor, points: Tensor) -> Tensor:
        """The same, among the values that can move."""
        stuck = ((points <= 0) & (gradient < 0)) | ((points >= 1) & (gradient > 0))
        return self.direction(gradient.masked_fill(stuck, 0.0))

    def clip(self, perturbation: Tensor) -> Tensor:
        """The nearest perturbation whose changes sum to ``epsilon`` at most."""
        return onto_l1(perturbation, self.epsilon, None)

    def project(self, points: Tensor, images: Tensor) -> Tensor:
        """The nearest points in both the ball and the box, which is not the ball's
        nearest point clamped (Croce and Hein, Mind the Box, ICML 2021, section 2)."""
        change = points - images
        room = torch.where(change > 0, 1 - images, images)
        return onto_l1(change, self.epsilon, room).add_(images).clamp_(0.0, 1.0)


def sparse_signs(gradient: Tensor, kept: Tensor) -> Tensor:
    """The signs of each sample's ``kept`` largest gradients, over their number.

    Values as large as the smallest one kept are kept, too; zeros never are.

    Args:
        gradient: ``[batch, ...]``.
        kept: ``[batch]``, at least 1.
    """
    sizes = gradient.unsqueeze(1).flatten(1).abs()
    place = (sizes.shape[1] - kept).clamp(0, sizes.shape[1] - 1).long()
    least = sizes.sort(dim=1).values.gather(1, place[:, None])
    signs = gradient.sign() * (sizes >= least).view_as(gradient)
    return signs / _length(signs, 1).clamp_min_(1.0)


def onto_l1(change: Tensor, epsilon: float, room: Tensor | None) -> Tensor:
    """The nearest change of L1 length ``epsilon`` at most, no value beyond its room.

    Every size a becomes min(max(a - t, 0), room) for one t of the sample, at which the
    sum is epsilon. As a function of t the sum is a chain of straight lines that bend at
    a and at a - room: the values sorted, t follows from two running sums.

    Args:
        change: ``[batch, ...]``.
        epsilon: the L1 length, at least 0.
        room: how far each value may change in the direction of its sign, at least 0;
            None for any distance.
    """
    size = change.abs().unsqueeze(1).flatten(1).double()
    if size.numel() == 0:
        return change.clone()
    bends, slopes = size, torch.ones_like(size)
    if room is not None:
        room = room.unsqueeze(1).flatten(1).double()
        bends = torch.cat([size, size - room], dim=1)
        slopes = torch.cat([slopes, -slopes], dim=1)
    bends, order = bends.sort(dim=1, descending=True)
    slopes = slopes.gather(1, order)
    steepness, offset = slopes.cumsum(dim=1), (slopes * bends).cumsum(dim=1)
    sums = offset - steepness * bends  # at each bend, growing as t falls
    last = (sums <= epsilon).sum(dim=1, keepdim=True).sub_(1).clamp_min_(0)
    slope = steepness.gather(1, last)
    cut = (offset.gather(1, last) - epsilon) / slope.clamp_min(1.0)
    cut = torch.where(slope > 0, cut, 0.0).clamp_min_(0.0)
    left = (size - cut).clamp_min_(0.0)
    if room is not None:
        left = torch.minimum(left, room)
    return left.to(change.dtype).view_as(change) * change.sign()


BALLS: dict[str, type[Ball]] = {"linf": LinfBall, "l2": L2Ball, "l1": L1Ball}


def _length(values: Tensor, order: float = 2.0) -> Tensor:
    """The norm of each sample, ``[batch, 1, ...]``."""
    shape = (len(values),) + (1,) * (values.dim() - 1)
    length: Tensor = torch.linalg.vector_norm(
        values.unsqueeze(1).flatten(1), ord=order, dim=1
    )
    return length.view(shape)
