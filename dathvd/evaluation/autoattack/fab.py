"""FAB: the nearest misclassified point, found along the decision boundary.

Croce and Hein, Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary
Attack, ICML 2020.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dathvd.attacks.attack import beside
from dathvd.attacks.balls import Ball
from dathvd.attacks.network import Network, gradient_at
from dathvd.evaluation.autoattack.hyperplane import onto_plane

_OVERSHOOT = 1.05
_BACK = 0.9
"""How far from the image a misclassified point is drawn back towards it."""
_LARGEST_BIAS = 0.1
"""Share of the image's own projection in a step at most."""
_TINY = 1e-8


def fab(
    network: Network,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    ball: Ball,
    *,
    num_steps: int = 100,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Search the nearest point of each target class; images leave once one is near.

    Args:
        network: from images to logits, right on all images.
        images: ``[batch, ...]`` in [0, 1].
        labels: int64 ``[batch]``.
        targets: int64 ``[batch]``, the wrong class whose boundary is sought.
        ball: a misclassified point in it is what is looked for.
        num_steps: of the search.

    Yields:
        Places int64 ``[n]`` in ``images``, and misclassified points in the ball.
    """
    places = torch.arange(len(images), device=images.device)
    points = images
    for _ in range(num_steps):
        points = _towards_boundary(network, points, images, labels, targets, ball.order)
        with torch.no_grad():
            wrong = network(points).argmax(dim=1) != labels
        change = points - images
        near = wrong & (_length(change, ball.order) <= ball.epsilon)
        down = near.nonzero().squeeze(1)
        if len(down):
            yield places[down], points[down]
        points = torch.where(beside(wrong, points), images + _BACK * change, points)
        if len(down):
            left = (~near).nonzero().squeeze(1)
            if len(left) == 0:
                return
            places, points, images = places[left], points[left], images[left]
            labels, targets = labels[left], targets[left]


def _towards_boundary(
    network: Network,
    points: Tensor,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    order: float,
) -> Tensor:
    """The next points: between the projections of the last ones and of the images."""
    with torch.enable_grad():
        inputs = points.detach().requires_grad_()
        logits = network(inputs)
        ahead = logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])
        gradient = gradient_at(inputs, ahead.sum())
    normal, here = gradient.flatten(1), points.flatten(1)
    origin, gap = images.flatten(1), ahead.detach().squeeze(1)
    gap_of_images = gap + (normal * (origin - here)).sum(dim=1)
    steps = onto_plane(
        torch.cat([here, origin]),
        torch.cat([normal, normal]),
        torch.cat([gap, gap_of_images]),
        order,
    )
    own, other = steps.split(len(points))
    near, far = (_length(step, order).clamp_min_(_TINY) for step in (own, other))
    bias = (near / (near + far)).clamp_max_(_LARGEST_BIAS)[:, None]
    moved = (here + _OVERSHOOT * own) * (1 - bias) + (
        origin + _OVERSHOOT * other
    ) * bias
    following: Tensor = moved.clamp_(0.0, 1.0).view_as(points)
    return following


def _length(changes: Tensor, order: float) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(changes.flatten(1), ord=order, dim=1)
    return length
