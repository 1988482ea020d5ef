"""Random images, for benchmarks and tests."""

from __future__ import annotations

import torch

from dathvd.config import DataConfig
from dathvd.data.sets import Dataset, TensorImages


def synthetic(config: DataConfig) -> Dataset:
    """Uniform noise with random labels by ``split_seed``; 3x32x32 by default."""
    size, channels = config.image_size or 32, config.channels or 3
    generator = torch.Generator().manual_seed(config.split_seed)

    def draw(count: int) -> TensorImages:
        shape = (count, channels, size, size)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        labels = torch.randint(config.num_classes, (count,), generator=generator)
        return TensorImages(images, labels)

    return Dataset(
        train=draw(config.num_train),
        test=draw(config.num_test),
        classes=tuple(str(index) for index in range(config.num_classes)),
        image_shape=(channels, size, size),
    )
