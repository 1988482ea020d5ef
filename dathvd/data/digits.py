"""Handwritten digits that ship with scikit-learn."""

from __future__ import annotations

import torch

from dathvd.config import DataConfig
from dathvd.data.sets import Dataset, TensorImages, split


def digits(config: DataConfig) -> Dataset:
    """1,797 digits of 1x8x8 (Alpaydin and Kaynak, UCI, 1998), split by seed.

    The grey values 0 to 16 become 0 to 255.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).mul_(255 / 16).round_().to(torch.uint8)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    everything = TensorImages(images.unsqueeze(1), labels)
    train, test = split(everything, config.test_fraction, config.split_seed)
    return Dataset(train, test, tuple("0123456789"), image_shape=(1, 8, 8))
