"""Random crops and flips of a whole batch at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from dathvd.components import ERASURES
from dathvd.config import DataConfig
from dathvd.data.crops import STREAM, draw_crops, resample
from dathvd.data.sets import Frames
from dathvd.noise import SampleNoise

Augmentation = Callable[[Frames, SampleNoise], Tensor]
"""A function of whole images, float or on a CPU uint8, and the samples' noise: images
of one shape and of that type."""


def build_augmentation(config: DataConfig) -> Augmentation | None:
    """The configured augmentation of training images, or None."""
    crop: Augmentation | None = None
    if config.augment and config.crop_size is not None:
        crop = functools.partial(resized_crop, size=config.crop_size, flip=config.flip)
    elif config.augment:
        crop = functools.partial(augment, padding=config.padding, flip=config.flip)
    if config.erase is None:
        return crop
    erase: Callable[[Tensor, SampleNoise], Tensor] = ERASURES[config.erase]

    def both(images: Frames, noise: SampleNoise) -> Tensor:
        cropped = images if crop is None else crop(images, noise)
        assert isinstance(cropped, Tensor)
        return erase(cropped, noise)

    return both


def augment(
    images: Frames, noise: SampleNoise, *, padding: int = 4, flip: bool = True
) -> Tensor:
    """The images, each cropped at a random place of its padded self, and maybe flipped.

    Args:
        images: ``[batch, C, H, W]``, any type.
        noise: draws that belong to each sample.
        padding: zeros on every side before the crop, which keeps the image's size.
        flip: mirror every other image, on average, from left to right.

    Returns:
        Images of the same shape and type.
    """
    assert isinstance(images, Tensor)
    batch, channels, height, width = images.shape
    draws = noise.uniform((batch, 3), STREAM)
    offsets = draws[:, :2].mul(2 * padding + 1).long()
    rows = offsets[:, :1] + torch.arange(height, device=images.device)
    columns = offsets[:, 1:] + torch.arange(width, device=images.device)
    if flip:
        columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
    # one gather of flat places is three times as fast as indexing by row and column
    places = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    places = places.view(batch, 1, height * width).expand(-1, channels, -1)
    padded = functional.pad(images, (padding,) * 4).flatten(2)
    return padded.gather(2, places).view(images.shape)


def resized_crop(
    images: Frames,
    noise: SampleNoise,
    *,
    size: int,
    flip: bool = True,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """A random rectangle of each image, scaled to a square, and maybe flipped.

    Szegedy et al., Going Deeper with Convolutions (CVPR 2015), section 6.

    Args:
        images: ``[batch, C, H, W]``, or a list of ``[C, H, W]`` of several sizes;
            float, or on a CPU uint8.
        noise: draws that belong to each sample.
        size: height and width of the result.
        flip: mirror every other image, on average, from left to right.
        area: least and largest share of the image's area.
        aspect: least and largest width over height, drawn evenly in the logarithm.

    Returns:
        ``[batch, C, size, size]``, bilinear, and antialiased where the image shrinks.
    """
    if isinstance(images, Tensor):
        sizes = [tuple(images.shape[-2:])] * len(images)
    else:
        sizes = [tuple(image.shape[-2:]) for image in images]
    crops = draw_crops(sizes, noise, area=area, aspect=aspect)
    if not flip:
        crops = replace(crops, mirrored=torch.zeros_like(crops.mirrored))
    if isinstance(images, Tensor) or images[0].device.type == "cpu":
        return resample(images, crops, size)
    first = images[0]
    result = first.new_empty(len(images), first.shape[0], size, size)
    for shape in sorted(set(sizes)):  # images of one size are cut at once
        places = [place for place, other in enumerate(sizes) if other == shape]
        own = torch.tensor(places, device=first.device)
        stack = torch.stack([images[place] for place in places])
        result[own] = resample(stack, crops.select(own), size)
    return result
