"""Rectangles of an image that training does not show."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dathvd.data.crops import STREAM
from dathvd.noise import SampleNoise

_SQUARE, _RECTANGLE, _FILL = STREAM + 2, STREAM + 3, STREAM + 4


def cutout(images: Tensor, noise: SampleNoise, *, size: float = 0.5) -> Tensor:
    """The images with a black square at a random place, which may reach beyond them.

    DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with
    Cutout (2017), section 3.2: the square's centre lies anywhere in the image.

    Args:
        images: ``[batch, C, H, W]``, float or uint8.
        noise: draws that belong to each sample.
        size: the square's side over the image's shorter one (the paper's 16 of 32).
    """
    count, _, height, width = images.shape
    side = round(size * min(height, width))
    draws = noise.uniform((count, 2), _SQUARE)
    tops = draws[:, 0].mul(height).long() - side // 2
    lefts = draws[:, 1].mul(width).long() - side // 2
    sides = torch.full_like(tops, side)
    hidden = rectangles(images, tops, lefts, sides, sides)
    return images.masked_fill(hidden, 0)


def random_erasing(
    images: Tensor,
    noise: SampleNoise,
    *,
    share: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Tensor:
    """Some of the images with a rectangle of random values, which lies within them.

    Zhong et al., Random Erasing Data Augmentation (AAAI 2020), algorithm 1, except that
    a rectangle that does not fit is cut to the image and not drawn again.

    Args:
        images: ``[batch, C, H, W]``, float in [0, 1] or uint8.
        noise: draws that belong to each sample.
        share: of the images that are erased.
        area: least and largest share of the image's area.
        aspect: least and largest height over width, drawn evenly in the logarithm.
    """
    count, _, height, width = images.shape
    draws = noise.uniform((count, 5), _RECTANGLE)
    areas = (area[0] + (area[1] - area[0]) * draws[:, 1]) * height * width
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratios = (low + (high - low) * draws[:, 2]).exp()
    heights = (areas * ratios).sqrt().round().long().clamp_(1, height)
    widths = (areas / ratios).sqrt().round().long().clamp_(1, width)
    tops = draws[:, 3].mul(height - heights + 1).long()
    lefts = draws[:, 4].mul(width - widths + 1).long()
    hidden = rectangles(images, tops, lefts, heights, widths)
    hidden &= (draws[:, 0] < share).view(-1, 1, 1, 1)
    values = noise.uniform(images.shape, _FILL)
    if not images.is_floating_point():
        values = values.mul_(256)
    return torch.where(hidden, values.to(images.dtype), images)


def rectangles(
    images: Tensor, tops: Tensor, lefts: Tensor, heights: Tensor, widths: Tensor
) -> Tensor:
    """Bool ``[batch, 1, H, W]``: what lies in each image's rectangle.

    Args:
        images: ``[batch, C, H, W]``.
        tops: int64 ``[batch]``, may lie outside of the image, as may the others.
        lefts: int64 ``[batch]``.
        heights: int64 ``[batch]``.
        widths: int64 ``[batch]``.
    """
    rows = torch.arange(images.shape[2], device=images.device) - tops[:, None]
    columns = torch.arange(images.shape[3], device=images.device) - lefts[:, None]
    high = (rows >= 0) & (rows < heights[:, None])
    wide = (columns >= 0) & (columns < widths[:, None])
    return (high[:, :, None] & wide[:, None, :]).unsqueeze(1)
