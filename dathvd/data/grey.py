"""Colour images to grey ones."""

from __future__ import annotations

from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601), as in Pillow's conversion to grey."""


def luma(images: Tensor) -> Tensor:
    """The brightness ``[batch, 1, H, W]`` of float images ``[batch, 3, H, W]``."""
    weights = images.new_tensor(LUMA).view(1, -1, 1, 1)
    return (images * weights).sum(1, keepdim=True)
