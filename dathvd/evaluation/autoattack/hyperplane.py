"""The nearest point of a hyperplane within the box [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST = 64
"""Newton's steps at most; each passes a kink, and a few suffice."""
_FLAT = 1e-8
"""A smaller change along a gradient counts as none."""


def onto_plane(points: Tensor, normal: Tensor, gap: Tensor, norm: str) -> Tensor:
    """The shortest step from each point onto its hyperplane within the box.

    Croce and Hein (Minimally Distorted Adversarial Examples with a Fast Adaptive
    Boundary Attack, ICML 2020, equation 6). With u = 1 for linf and u = abs(normal)
    for l2, coordinate i moves by min(a * u_i, its way to the box). The way that all of
    them make together along the normal is concave and grows with the scalar a, so that
    Newton's method from below finds a in finitely many steps, without sorting.

    Args:
        points: ``[n, d]`` in [0, 1].
        normal: ``[n, d]``.
        gap: ``normal @ point - offset``, ``[n]``: how far from 0 each point is.
        norm: linf or l2.

    Returns:
        The steps ``[n, d]``; where the box ends before the plane, as far as it lets.
    """
    # the step goes against the normal where the gap is positive
    weight = normal.abs()
    falls = (normal > 0) == (gap >= 0)[:, None]
    room = torch.where(falls, points, 1 - points)
    room = torch.where(normal != 0, room, torch.zeros_like(room))
    unit = torch.ones_like(weight) if norm == "linf" else weight
    goal = gap.abs()
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
    # a plane beyond the box is met at its corner
    reach = (weight * room).sum(dim=1)
    step = torch.minimum(scale[:, None] * unit, room)
    step = torch.where((reach <= goal)[:, None], room, step)
    return torch.where(falls, -step, step)
