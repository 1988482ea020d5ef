"""Signs of a model that AutoAttack cannot judge, as warnings."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from dathvd.attacks.network import Network, gradient_at

_CLOSE = 1e-4


def doubts_of(network: Network, images: Tensor) -> None:
    """Warn of random outputs, of outputs that are no logits, and of flat places.

    Croce and Hein's code gives the same warnings: gradients of a network that answers
    differently each time, or of probabilities, mislead the attacks.

    Args:
        network: from images to logits.
        images: ``[batch, ...]`` in [0, 1].
    """
    _doubt_gradients(network, images)
    with torch.no_grad():
        first, second = network(images), network(images)
    if (first - second).abs().max() > _CLOSE * first.abs().max().clamp_min(_CLOSE):
        warnings.warn(
            "AutoAttack: the model's outputs are random, which the standard version "
            "does not account for: the accuracy may be too high",
            stacklevel=2,
        )
    sums = (first.sum(dim=1) - 1).abs().max()
    if first.min() >= 0 and first.max() <= 1 + _CLOSE and sums < _CLOSE:
        warnings.warn(
            "AutoAttack: the model's outputs are probabilities, not logits: the "
            "attacks' losses are flat there, and the accuracy may be too high",
            stacklevel=2,
        )


def _doubt_gradients(network: Network, images: Tensor) -> None:
    with torch.enable_grad():
        inputs = images.detach().requires_grad_()
        highest = network(inputs).topk(2, dim=1).values
        gradient = gradient_at(inputs, (highest[:, 0] - highest[:, 1]).sum())
    if (gradient.flatten(1).abs().amax(dim=1) == 0).any():
        warnings.warn(
            "AutoAttack: some images have a gradient of zero, where its attacks cannot "
            "move but for the last: the accuracy may be too high",
            stacklevel=3,
        )
