"""Layer-wise adaptive learning rates: the trust ratio."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def trust_ratio(
    weight_norm: Tensor,
    update_norm: Tensor,
    *,
    coefficient: float = 1.0,
    min_weight_norm: float = 0.0,
    max_weight_norm: float | None = None,
) -> Tensor:
    """The length that a layer may move, relative to its direction's.

    ``coefficient * clip(|w|, min, max) / |u|``, and 1 where either norm is 0: phi in
    LAMB's algorithm 2 (You et al., Large Batch Optimization for Deep Learning, ICLR
    2020, section 3); with ``coefficient`` the eta of LARS (You, Gitman, Ginsburg, Large
    Batch Training of Convolutional Networks, 2017, equation 6); with ``|w|`` clipped to
    [0, 10] the ratio of distributed adversarial training (UAI 2022).

    Args:
        weight_norm: L2 norms of the weights, any shape.
        update_norm: L2 norms of the directions, the same shape.
        coefficient: a factor of every ratio, except where it is 1 for a zero norm.
        min_weight_norm: the smallest weight norm that counts.
        max_weight_norm: the largest weight norm that counts; None for no bound.

    Returns:
        The ratios, in the norms' shape, with no host synchronisation.
    """
    upper = math.inf if max_weight_norm is None else max_weight_norm
    ratio = weight_norm.clamp(min_weight_norm, upper).mul(coefficient) / update_norm
    usable = (weight_norm > 0) & (update_norm > 0)
    return torch.where(usable, ratio, torch.ones_like(ratio))
