"""Handwritten digits that ship with scikit-learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dathvd.config import DataConfig
from dathvd.data.sets import Dataset, TensorImages, split


def digits(config: DataConfig) -> Dataset:
    """1,797 digits of 1x8x8 (Alpaydin and Kaynak, UCI, 1998), split by seed.

    The grey values 0 to 16 become 0 to 255.
    """
    table = torch.from_numpy(_table())
    images = table[:, :-1].reshape(-1, 1, 8, 8)
    everything = TensorImages(
        images.mul(255 / 16).round_().to(torch.uint8), table[:, -1].to(torch.int64)
    )
    train, test = split(everything, config.test_fraction, config.split_seed)
    return Dataset(train, test, tuple("0123456789"), image_shape=(1, 8, 8))


def _table() -> NDArray[np.float64]:
    """Rows of 64 grey values and the digit that they show.

    To import scikit-learn for them takes every worker's start a third longer: its file
    is read without, and with its own function only where a release moved the file.
    """
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.exists():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])
