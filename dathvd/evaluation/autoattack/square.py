"""Square: random search without gradients, by squares of one colour.

Andriushchenko, Croce, Flammarion and Hein, Square Attack: A Query-efficient Black-box
Adversarial Attack via Random Search, ECCV 2020; in L1 balls Croce and Hein, Mind the
Box, ICML 2021, section 4. As in AutoAttack all images share the places of a query's
squares.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from dathvd.attacks.balls import Ball
from dathvd.attacks.losses import margin
from dathvd.attacks.network import Network
from dathvd.noise import SampleNoise, hash_word

QUERIES = 5000
_SHARE = 0.8
"""Share of an image that the first squares cover."""
_MILESTONES = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries after which the share is halved."""


def square(
    network: Network,
    images: Tensor,
    labels: Tensor,
    ball: Ball,
    noise: SampleNoise,
    stream: int,
    *,
    num_queries: int = QUERIES,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Keep each change that lowers the margin; images leave once it is not positive.

    A query whose squares change nothing of an image is not asked: as each such change
    is a corner of the ball, they are half of all on small grey images.

    Args:
        network: from images to logits.
        images: ``[batch, C, H, W]`` in [0, 1].
        labels: int64 ``[batch]``.
        ball: what points stay in.
        noise: of the samples, and of what they share.
        stream: of the noise.
        num_queries: of each image, the first point apart.

    Yields:
        Places int64 ``[n]`` in ``images``, and points that fool the network.
    """
    squares = _KINDS[ball.order](images, ball, noise, stream)
    places = torch.arange(len(images), device=images.device)
    best = squares.first()
    lead = _lead(network, best, labels)
    for query in range(-1, num_queries):
        if query >= 0:
            changed, points = squares.next(best, query)
            if len(points) == 0:
                continue
            found = _lead(network, points, labels[changed])
            lower = (found < lead[changed]) | (found <= 0)
            if not lower.any():
                continue
            better = changed[lower]
            best[better], lead[better] = points[lower], found[lower]
        down = (lead <= 0).nonzero().squeeze(1)
        if len(down):
            yield places[down], best[down]
            left = (lead > 0).nonzero().squeeze(1)
            if len(left) == 0:
                return
            places, best, lead = places[left], best[left], lead[left]
            labels = labels[left]
            squares.select(left)


def _lead(network: Network, points: Tensor, labels: Tensor) -> Tensor:
    """The label's logit less the best other one, ``[batch]``."""
    with torch.no_grad():
        return margin(network(points), labels, None).neg_()


def share_of(query: int) -> float:
    """The share of an image that the squares of a query cover (section 3)."""
    halvings = sum(query > milestone for milestone in _MILESTONES)
    return _SHARE * 0.5**halvings


class _Squares(ABC):
    """Points that are asked next."""

    def __init__(
        self, images: Tensor, ball: Ball, noise: SampleNoise, stream: int
    ) -> None:
        self.images = images
        self.ball = ball
        self._noise = noise
        self._stream = stream
        self._seed = noise.shared(stream)
        _, self.channels, self.height, self.width = images.shape

    @abstractmethod
    def first(self) -> Tensor:
        """The points to begin with, of their own memory."""

    @abstractmethod
    def next(self, best: Tensor, query: int) -> tuple[Tensor, Tensor]:
        """Places of images that the query changes, and their changed points."""

    def select(self, left: Tensor) -> None:
        """Go on with some of the images, by their places."""
        self.images = self.images[left]
        self._noise = self._noise.select(left)

    def _below(self, bound: int, *parts: int) -> int:
        """A shared integer in [0, bound), or 0."""
        return hash_word(self._seed, *parts) % max(bound, 1)

    def _signs(self, shape: tuple[int, ...], query: int) -> Tensor:
        """1 and -1, drawn for each image."""
        draw = self._noise.uniform(shape, self._stream + 2 + query)
        return (draw >= 0.5).to(self.images.dtype).mul_(2).sub_(1)

    def _side(self, query: int) -> float:
        return math.sqrt(share_of(query) * self.height * self.width)


class _LinfSquares(_Squares):
    """Each square is at one end of the ball, and each point in a corner of it."""

    def __init__(
        self, images: Tensor, ball: Ball, noise: SampleNoise, stream: int
    ) -> None:
        super().__init__(images, ball, noise, stream)
        self.low = (images - ball.epsilon).clamp_(0.0, 1.0)
        self.high = (images + ball.epsilon).clamp_(0.0, 1.0)

    def first(self) -> Tensor:
        """Stripes of one pixel."""
        signs = self._signs((len(self.images), self.channels, 1, self.width), -1)
        return torch.where(signs > 0, self.high, self.low)

    def next(self, best: Tensor, query: int) -> tuple[Tensor, Tensor]:
        """One square, whose end of the ball each channel draws."""
        limit = min(self.height, self.width)
        side = min(max(round(self._side(query)), 1), limit)
        top = self._below(self.height - side, query, 0)
        left = self._below(self.width - side, query, 1)
        window = (..., slice(top, top + side), slice(left, left + side))
        ends = [
            (self.high if hash_word(self._seed, query, 2, channel) & 1 else self.low)[
                :, channel
            ][window]
            for channel in range(self.channels)
        ]
        end = torch.stack(ends, dim=1)
        differs = (end != best[window]).flatten(1).any(dim=1)
        changed = differs.nonzero().squeeze(1)
        points = best[changed]
        points[window] = end[changed]
        return changed, points

    def select(self, left: Tensor) -> None:
        """Those images, and their ends of the ball."""
        super().select(left)
        self.low, self.high = self.low[left], self.high[left]


class _L2Squares(_Squares):
    """Each square takes the change of another window, and what is left to the ball."""

    fall = 2
    """The k-th ring of a pattern's pyramids adds 1/k to this power."""

    def first(self) -> Tensor:
        """Five by five tiles, each of its own sign."""
        change = torch.zeros_like(self.images)
        side = max(self.height // 5, 1)
        start = (self.height - 5 * side) // 2 if self.height >= 5 else 0
        for row in range(self.height // side):
            for column in range(self.width // side):
                tile = row * (self.width // side) + column
                top, left = start + row * side, start + column * side
                window = change[..., top : top + side, left : left + side]
                pattern = self._pattern(side, -1, tile)
                signs = self._signs((len(change), self.channels, 1, 1), -2 - tile)
                window += (pattern * signs)[..., : window.shape[2], : window.shape[3]]
        return self._within(change)

    def next(self, best: Tensor, query: int) -> tuple[Tensor, Tensor]:
        """The two windows of a query, of all images."""
        limit = min(self.height, self.width)
        side = max(round(self._side(query)), 3)
        side = min(side + 1 - side % 2, limit)
        change = best - self.images
        tops = [self._below(self.height - side, query, place) for place in (0, 1)]
        lefts = [self._below(self.width - side, query, place) for place in (2, 3)]
        taker, giver = (
            (..., slice(top, top + side), slice(left, left + side))
            for top, left in zip(tops, lefts, strict=True)
        )
        union = torch.zeros_like(change[:1])
        union[taker], union[giver] = 1.0, 1.0
        order = self.ball.order
        powers = change.abs() ** order
        whole = powers.sum(dim=(1, 2, 3), keepdim=True)
        both = (powers * union).sum(dim=(2, 3), keepdim=True)
        old = change[taker] / (_length(change[taker], order) + 1e-12)
        signs = self._signs((len(change), self.channels, 1, 1), query)
        new = old + self._pattern(side, query) * signs
        left_over = (self.ball.epsilon**order - whole).clamp_min_(0.0)
        goal = self._goal(left_over / self.channels + both)
        change[giver] = 0.0
        change[taker] = new / (_length(new, order) + 1e-12) * goal
        everyone = torch.arange(len(best), device=best.device)
        return everyone, self._within(change)

    def _goal(self, budget: Tensor) -> Tensor:
        """The length of a window's new change, from its power."""
        return budget.sqrt()

    def _within(self, change: Tensor) -> Tensor:
        """Points at the ball's radius, clamped to the box."""
        length = change.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
        unit = change / (length + 1e-12)
        return (self.images + self.ball.epsilon * unit).clamp_(0.0, 1.0)

    def _pattern(self, side: int, *draw: int) -> Tensor:
        """Two pyramids of opposite signs and of length 1 together (equation 2)."""
        half = side // 2
        up, down = (
            _pyramid(rows, side, self.ball.order, self.fall)
            for rows in (half, side - half)
        )
        pattern = torch.cat([up, -down])
        pattern /= _length(pattern, self.ball.order)
        if self._below(2, *draw, 9):
            pattern = pattern.T
        return pattern.to(self.images)


class _L1Squares(_L2Squares):
    """The same with lengths of L1, steeper pyramids, and windows that take more than
    there is, as the nearest points in the ball and the box then are sparser."""

    fall = 4

    def _goal(self, budget: Tensor) -> Tensor:
        return budget * self.channels

    def _within(self, change: Tensor) -> Tensor:
        return self.ball.project(self.images + change, self.images)


_KINDS: dict[float, type[_Squares]] = {
    torch.inf: _LinfSquares,
    2.0: _L2Squares,
    1.0: _L1Squares,
}
"""How squares change an image, by the order of the ball."""


def _pyramid(height: int, width: int, order: float, fall: int) -> Tensor:
    """Rectangles around the middle, the k-th of height k^-fall, of length 1 in all."""
    if height == 0:
        return torch.zeros(0, width)
    middle = height // 2, width // 2
    rows = (torch.arange(height) - middle[0]).abs()[:, None]
    columns = (torch.arange(width) - middle[1]).abs()[None]
    rings = torch.maximum(rows, columns)
    heights = torch.arange(1, max(middle) + 2).double().pow(-fall)
    tails = heights.flip(0).cumsum(0).flip(0)
    values = tails[rings].float()
    return values / _length(values, order)


def _length(values: Tensor, order: float) -> Tensor:
    """Of each matrix, with its last two dimensions left as 1."""
    powers = values.abs() ** order
    return powers.sum(dim=(-2, -1), keepdim=True) ** (1 / order)
