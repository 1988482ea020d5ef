"""A data set of a user's own."""

from __future__ import annotations

import torch

from dathvd.config import DataConfig
from dathvd.data import Dataset, TensorImages


def stripes(config: DataConfig, *, count: int = 64, size: int = 6) -> Dataset:
    """Images of ``1 x size x size``, bright in the third that is their class."""
    generator = torch.Generator().manual_seed(config.split_seed)

    def draw(images: int) -> TensorImages:
        labels = torch.arange(images) % 3
        pixels = torch.randint(100, (images, 1, size, size), generator=generator)
        for image, label in zip(pixels, labels.tolist()):
            image[:, label * size // 3 : (label + 1) * size // 3] += 120
        return TensorImages(pixels.to(torch.uint8), labels)

    return Dataset(draw(count), draw(count // 2), ("a", "b", "c"), (1, size, size))
