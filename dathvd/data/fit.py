"""Images in memory to the configured size and channels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dathvd.config import DataConfig
from dathvd.data.grey import luma
from dathvd.data.sets import CenterCrop, Dataset, ImageSet, TensorImages
from dathvd.errors import UserError


def fit(dataset: Dataset, config: DataConfig) -> Dataset:
    """The data set with ``image_size``, ``channels`` and ``crop_size`` applied.

    Where training is augmented the training images keep their size: the random crop
    cuts them.

    Raises:
        UserError: the crop is larger than the images.
    """
    channels, height, width = dataset.image_shape
    shape = (
        config.channels or channels,
        config.image_size or height,
        config.image_size or width,
    )
    train, test = _converted(dataset.train, shape), _converted(dataset.test, shape)
    if config.crop_size is not None:
        size = config.crop_size
        if size > min(shape[1:]):
            raise UserError(
                f"data.crop_size: {size} is larger than the images "
                f"({shape[2]}x{shape[1]}; set data.image_size)"
            )
        shape = (shape[0], size, size)
        test = CenterCrop(test, size)
        train = train if config.augment else CenterCrop(train, size)
    return Dataset(train, test, dataset.classes, shape)


def _converted(images: ImageSet, shape: tuple[int, int, int]) -> ImageSet:
    if not isinstance(images, TensorImages) or images.images.shape[1:] == shape:
        return images
    parts = [_convert(part, shape) for part in torch.split(images.images, 1024)]
    return TensorImages(torch.cat(parts), images.labels)


def _convert(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """uint8 images of another size (bilinear, antialiased) and number of channels."""
    pixels = images.float()
    if shape[0] == 1 and pixels.shape[1] == 3:
        pixels = luma(pixels)
    if pixels.shape[2:] != shape[1:]:
        pixels = functional.interpolate(
            pixels, shape[1:], mode="bilinear", antialias=True
        )
    return pixels.expand(-1, shape[0], -1, -1).round().clamp(0, 255).to(torch.uint8)
