"""How many images an attack of many short calls is given at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dathvd.attacks.network import in_mode

LARGEST = 512
"""Images of a part at most: calls on more gain little, and parts are what workers
share."""
_ACTIVATIONS = 2**26
"""Values of all layers' outputs together that a part may have; 256 MB in float32."""


def part_size(model: nn.Module, image: Tensor, least: int) -> int:
    """A power of two, the larger the cheaper the network is.

    A call on few small images takes nearly as long as one on many: AutoAttack makes
    some ten thousand calls on each part. The size follows from the network alone, so
    that results do not depend on the number of workers.

    Args:
        model: from images in [0, 1] to logits.
        image: float ``[1, C, H, W]``, on the model's device.
        least: the size for expensive networks, which is never gone below.
    """
    values = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal values
        values += output.numel() if isinstance(output, Tensor) else 0

    leaves = [module for module in model.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(count) for module in leaves]
    try:
        with in_mode(model, training=False) as network, torch.no_grad():
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    fits = min(_ACTIVATIONS // max(values, 1), LARGEST)
    return max(least, 1 << (fits.bit_length() - 1) if fits else 1)
