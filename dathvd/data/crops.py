"""Random rectangles of images, and how they are scaled to squares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dathvd.data.sets import Frames
from dathvd.noise import SampleNoise

STREAM = 7
"""The noise stream of augmentation, apart from those of attacks."""
TRIES = 10
"""The number of rectangles that are drawn, at most, until one fits into its image."""


@dataclass(frozen=True)
class Crops:
    """A rectangle of whole pixels of each image of a batch: float ``[batch]``."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    mirrored: Tensor
    """Bool ``[batch]``: left and right change places."""

    def select(self, places: Tensor) -> Crops:
        """The rectangles of the images at those int64 places."""
        return Crops(
            self.top[places],
            self.left[places],
            self.height[places],
            self.width[places],
            self.mirrored[places],
        )


def draw_crops(
    sizes: Sequence[tuple[int, ...]],
    noise: SampleNoise,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Crops:
    """A random rectangle of whole pixels of each image, at an even place within it.

    A rectangle that is too wide or too high is drawn anew. After ``TRIES`` of them it
    is the largest in the middle of the image whose shape is allowed. Every other one,
    on average, is mirrored.

    Args:
        sizes: (height, width) of each image.
        noise: draws that belong to each sample.
        area: least and largest share of the image's area, drawn evenly.
        aspect: least and largest width over height, drawn evenly in the logarithm.
    """
    draws = noise.uniform((len(sizes), 3 + 2 * TRIES), STREAM)
    across, down, side = draws[:, 2], draws[:, 3], draws[:, 4]
    share = torch.cat([draws[:, :1], draws[:, 5::2]], dim=1)
    shape = torch.cat([draws[:, 1:2], draws[:, 6::2]], dim=1)
    limits = torch.tensor(sizes, dtype=draws.dtype, device=draws.device).view(-1, 2)
    high, wide = limits[:, :1], limits[:, 1:]
    pixels = share.mul(area[1] - area[0]).add(area[0]) * high * wide
    low, top = math.log(aspect[0]), math.log(aspect[1])
    ratio = shape.mul(top - low).add(low).exp()
    # the last candidate fits always: as much of the middle as the aspect allows
    heights = torch.cat([(pixels / ratio).sqrt(), high.minimum(wide / aspect[0])], 1)
    widths = torch.cat([(pixels * ratio).sqrt(), wide.minimum(high * aspect[1])], 1)
    rounding = 1 + 1e-5
    fits = (heights <= high * rounding) & (widths <= wide * rounding)
    choice = fits.int().argmax(dim=1, keepdim=True)
    middle = (choice == TRIES).squeeze(1)
    height = heights.gather(1, choice).round().clamp(min=1.0).minimum(high).squeeze(1)
    width = widths.gather(1, choice).round().clamp(min=1.0).minimum(wide).squeeze(1)
    return Crops(
        top=_place(torch.where(middle, 0.5, down), high.squeeze(1) - height),
        left=_place(torch.where(middle, 0.5, across), wide.squeeze(1) - width),
        height=height,
        width=width,
        mirrored=side < 0.5,
    )


def _place(share: Tensor, room: Tensor) -> Tensor:
    """One of the ``room + 1`` first pixels, each as likely, of a share in [0, 1)."""
    return (share * (room + 1)).floor().minimum(room)


def resample(images: Frames, crops: Crops, size: int) -> Tensor:
    """The rectangles of the images as squares.

    Bilinear, antialiased where it shrinks; no pixel beyond the rectangle counts. On a
    CPU torch's interpolation does it, image by image: its time goes with the
    rectangle, not with the image. On a GPU it is ``rows @ image @ columns^T`` for a
    whole batch. The two differ by rounding.

    Args:
        images: ``[batch, C, H, W]``, or on a CPU a list of ``[C, H, W]`` of several
            sizes; float, or on a CPU uint8, whose result is rounded.
        crops: a rectangle of each.
        size: height and width of the result.

    Returns:
        ``[batch, C, size, size]``.
    """
    if not isinstance(images, Tensor) or images.device.type == "cpu":
        return _interpolated(images, crops, size)
    return _multiplied(images, crops, size)


def _multiplied(images: Tensor, crops: Crops, size: int) -> Tensor:
    """The rectangles by two products of matrices, all images at once."""
    rows = triangle_filter(crops.top, crops.height, images.shape[2], size)
    columns = triangle_filter(crops.left, crops.width, images.shape[3], size)
    mirrored = crops.mirrored.view(-1, 1, 1)
    columns = torch.where(mirrored, columns.flip(1), columns)
    rows, columns = rows.to(images.dtype), columns.to(images.dtype)
    return rows[:, None] @ images @ columns[:, None].mT


def _interpolated(images: Frames, crops: Crops, size: int) -> Tensor:
    """The rectangles by torch's own interpolation, one at a time."""
    like = images if isinstance(images, Tensor) else images[0]
    corners = torch.stack([crops.top, crops.left, crops.height, crops.width], 1)
    squares = like.new_empty(len(images), like.shape[-3], size, size)
    places = zip(corners.int().tolist(), crops.mirrored.tolist())
    for image, square, ((top, left, high, wide), mirrored) in zip(
        images, squares, places
    ):
        part = image[:, top : top + high, left : left + wide]
        small = scaled(part, (size, size))
        square.copy_(small.flip(2) if mirrored else small)
    return squares


def scaled(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image ``[C, H, W]`` at another height and width, bilinear, antialiased.

    On a CPU, bytes whose channels lie together are scaled in half the time that planes
    take, with the same bits.
    """
    is_bytes = image.dtype == torch.uint8
    layout = torch.channels_last if is_bytes else torch.contiguous_format
    # The first dimension must have the stride of a whole image for torch to see the
    # layout, which ``image[None]`` does not give it.
    batch = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    laid_out = batch.contiguous(memory_format=layout)
    return functional.interpolate(laid_out, size, mode="bilinear", antialias=True)[0]


def triangle_filter(start: Tensor, extent: Tensor, length: int, size: int) -> Tensor:
    """The weights that turn ``length`` pixels into ``size`` samples of a stretch.

    The samples lie at the middles of ``size`` equal parts of the stretch. Each weighs
    the pixels around it by a triangle whose half width is one pixel, or one part where
    parts are longer: linear interpolation that is antialiased, as Pillow's and
    torchvision's. Where pixels beyond the stretch would count, those within grow.

    Args:
        start: float ``[batch]``, where the stretch begins, in pixels from the edge.
        extent: float ``[batch]``, its length.
        length: number of pixels.
        size: number of samples.

    Returns:
        ``[batch, size, length]``; rows add up to 1.
    """
    part = (extent / size)[:, None, None]
    samples = torch.arange(size, device=start.device).view(1, -1, 1).add(0.5)
    pixels = torch.arange(length, device=start.device).view(1, 1, -1).add(0.5)
    distance = pixels - (start[:, None, None] + samples * part)
    weights = (1 - distance.abs() / part.clamp(min=1.0)).clamp_(min=0.0)
    first = start[:, None, None]
    weights *= (pixels > first) & (pixels < first + extent[:, None, None])
    return weights / weights.sum(dim=2, keepdim=True)
