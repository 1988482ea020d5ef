"""The nearest point of a hyperplane within the box [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST = 64
"""Newton's steps at most; each passes a kink, and a few suffice."""
_FLAT = 1e-8
"""A smaller change along a gradient counts as none."""


def onto_plane(points: Tensor, normal: Tensor, gap: Tensor, order: float) -> Tensor:
    """The shortest step from each point onto its hyperplane within the box.

    Croce and Hein (Minimally Distorted Adversarial Examples with a Fast Adaptive
    Boundary Attack, ICML 2020, equation 6).

    Args:
        points: ``[n, d]`` in [0, 1].
        normal: ``[n, d]``.
        gap: ``normal @ point - offset``, ``[n]``: how far from 0 each point is.
        order: the p of the Lp length that is to be short: 1, 2 or infinity.

    Returns:
        The steps ``[n, d]``; where the box ends before the plane, as far as it lets.
    """
    # the step goes against the normal where the gap is positive
    weight = normal.abs()
    falls = (normal > 0) == (gap >= 0)[:, None]
    room = torch.where(falls, points, 1 - points)
    room = torch.where(normal != 0, room, torch.zeros_like(room))
    goal = gap.abs()
    if order == 1:
        step = _fewest(weight, room, goal)
    else:
        unit = torch.ones_like(weight) if order == torch.inf else weight
        step = _evenly(weight, unit, room, goal)
    # a plane beyond the box is met at its corner
    reach = (weight * room).sum(dim=1)
    step = torch.where((reach <= goal)[:, None], room, step)
    return torch.where(falls, -step, step)


def _fewest(weight: Tensor, room: Tensor, goal: Tensor) -> Tensor:
    """The way of least L1 length: to the end of the box, one coordinate after the
    other, those first along which the plane nears fastest."""
    weight, order = weight.sort(dim=1, descending=True)
    room = room.gather(1, order)
    gains = weight * room
    # doubles, as the sum before a coordinate is a difference of two that may be large
    before = gains.double().cumsum(dim=1) - gains
    missing = (goal[:, None] - before).clamp_min_(0.0).to(weight.dtype)
    way = torch.where(weight > 0, missing / weight, 0.0)
    step = torch.minimum(way, room)
    return torch.zeros_like(step).scatter(1, order, step)


def _evenly(weight: Tensor, unit: Tensor, room: Tensor, goal: Tensor) -> Tensor:
    """The way along which coordinate i moves by min(a * unit_i, its room).

    What all of them near the plane by is concave and grows with the scalar a, so that
    Newton's method from below finds a in finitely many steps, without sorting.
    """
    rate = weight * unit
    total = rate.sum(dim=1)
    scale = torch.where(total > 0, goal / total, torch.zeros_like(goal))
    for _ in range(_LARGEST):
        way = scale[:, None] * unit
        free = way < room
        missing = goal - (weight * torch.minimum(way, room)).sum(dim=1)
        slope = (rate * free).sum(dim=1)
        further = (missing > _FLAT * goal) & (slope > 0)
        if not further.any():
            break
        scale = torch.where(further, scale + missing / slope, scale)
    return torch.minimum(scale[:, None] * unit, room)
