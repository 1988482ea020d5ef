"""Random crops and flips of a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dathvd.noise import SampleNoise

STREAM = 7
"""The noise stream of augmentation, apart from those of attacks."""


def augment(
    images: Tensor, noise: SampleNoise, *, padding: int = 4, flip: bool = True
) -> Tensor:
    """Each image cropped at a random place of its zero-padded self, and maybe flipped.

    Args:
        images: ``[batch, C, H, W]``, any type.
        noise: draws that belong to each sample.
        padding: zeros on every side before the crop, which keeps the image's size.
        flip: mirror every other image, on average, from left to right.

    Returns:
        Images of the same shape and type (channels-last in memory).
    """
    batch, _, height, width = images.shape
    draws = noise.uniform((batch, 3), STREAM)
    offsets = draws[:, :2].mul(2 * padding + 1).long()
    rows = offsets[:, :1] + torch.arange(height, device=images.device)
    columns = offsets[:, 1:] + torch.arange(width, device=images.device)
    if flip:
        columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
    padded = functional.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    which = torch.arange(batch, device=images.device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
