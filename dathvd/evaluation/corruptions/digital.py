"""What files and screens do to images: JPEG's losses, larger pixels."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dathvd.evaluation.corruptions.kind import Corruption
from dathvd.noise import SampleNoise


def _jpeg(images: Tensor, quality: int, noise: SampleNoise) -> Tensor:
    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _each(images, compressed)


def _pixelate(images: Tensor, share: float, noise: SampleNoise) -> Tensor:
    def coarse(image: Image.Image) -> Image.Image:
        width, height = image.size
        small = max(int(width * share), 1), max(int(height * share), 1)
        box = Image.Resampling.BOX
        return image.resize(small, box).resize((width, height), box)

    return _each(images, coarse)


def _each(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Every image changed as Pillow's."""
    pixels = images.mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    changed = []
    for each in pixels:
        grey = each.shape[2] == 1
        picture = change(Image.fromarray(each[:, :, 0] if grey else each))
        changed.append(np.asarray(picture).reshape(each.shape))
    if not changed:
        return images
    stacked = torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2)
    return stacked.to(images).div_(255)


JPEG_COMPRESSION = Corruption(_jpeg, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7))
PIXELATE = Corruption(
    _pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)
)
