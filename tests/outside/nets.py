"""A network of a user's own."""

from __future__ import annotations

import math

from torch import nn


def make_network(
    image_shape: tuple[int, int, int], num_classes: int, *, hidden: int = 16
) -> nn.Module:
    """One hidden layer of ``hidden`` units."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(image_shape), hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )
