"""Handwritten digits that ship with scikit-learn."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from dathvd.config import DataConfig
from dathvd.data.sets import Dataset, TensorImages


def digits(config: DataConfig) -> Dataset:
    """1,797 digits of 1x8x8 (Alpaydin and Kaynak, UCI, 1998), split by class and seed.

    The grey values 0 to 16 become 0 to 255.
    """
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).mul_(255 / 16).round_().to(torch.uint8)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    generator = torch.Generator().manual_seed(config.split_seed)
    order = torch.randperm(len(labels), generator=generator)
    num_test = round(config.test_fraction * len(labels))
    test, train = order[:num_test], order[num_test:]
    images = images.unsqueeze(1)
    return Dataset(
        train=TensorImages(images[train], labels[train]),
        test=TensorImages(images[test], labels[test]),
        classes=tuple(str(name) for name in bunch.target_names),
        image_shape=(1, 8, 8),
    )
