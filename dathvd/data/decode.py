"""Image files to uint8 arrays of one shape."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from dathvd.data.sets import ImageShape
from dathvd.errors import UserError

MODES = {1: "L", 3: "RGB"}


def open_image(path: Path) -> Image.Image:
    """The decoded image.

    Raises:
        UserError: the file cannot be read or is not an image; it is named.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except UnidentifiedImageError:
        raise UserError(f"data.root: {path} is not an image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"data.root: {path} cannot be decoded: {error}") from None


def own_shape(path: Path, size: int | None, channels: int | None) -> ImageShape:
    """The shape that a data set takes from its first image, where not configured."""
    image = open_image(path)
    depth = channels or (1 if image.mode in ("1", "L", "I;16") else 3)
    return (depth, size or image.height, size or image.width)


def decode(path: Path, shape: ImageShape, resize: bool) -> NDArray[np.uint8]:
    """The image as ``[C, H, W]``.

    Where ``resize``, its shorter side is scaled to the shape's (antialiased), and the
    centre is cut out.

    Raises:
        UserError: it cannot be read, or has another size and ``resize`` is False.
    """
    channels, height, width = shape
    image = open_image(path).convert(MODES[channels])
    if image.size != (width, height):
        if not resize:
            raise UserError(
                f"data.root: {path} is {image.width}x{image.height}, the first image "
                f"is {width}x{height} (set data.image_size)"
            )
        image = _resize_and_crop(image, width, height)
    pixels = np.asarray(image, dtype=np.uint8).reshape(height, width, channels)
    return pixels.transpose(2, 0, 1)


def _resize_and_crop(image: Image.Image, width: int, height: int) -> Image.Image:
    scale = max(width / image.width, height / image.height)
    size = (
        max(width, round(image.width * scale)),
        max(height, round(image.height * scale)),
    )
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def decode_into(
    images: Tensor, paths: list[Path], resize: bool, pool: ThreadPoolExecutor
) -> None:
    """Fill uint8 ``[len(paths), C, H, W]`` by the pool's threads."""
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    array = images.numpy()

    def fill(start: int) -> None:
        for place in range(start, min(start + 64, len(paths))):
            array[place] = decode(paths[place], shape, resize)

    for _ in pool.map(fill, range(0, len(paths), 64)):
        pass


def decode_all(paths: list[Path], shape: ImageShape, resize: bool) -> Tensor:
    """All images in memory: uint8 ``[len(paths), C, H, W]``."""
    images = torch.empty((len(paths), *shape), dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:
        decode_into(images, paths, resize, pool)
    return images
