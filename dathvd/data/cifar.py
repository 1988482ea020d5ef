"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) as torchvision stores them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from dathvd.config import DataConfig
from dathvd.data.pickles import read_arrays
from dathvd.data.published import Published
from dathvd.data.sets import Dataset, TensorImages
from dathvd.errors import UserError

_SITE = "https://www.cs.toronto.edu/~kriz/"

CIFAR10 = Published(
    folder="cifar-10-batches-py",
    files={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
    url=_SITE + "cifar-10-python.tar.gz",
    archive=("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
)

CIFAR100 = Published(
    folder="cifar-100-python",
    files={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
    url=_SITE + "cifar-100-python.tar.gz",
    archive=("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
)


def cifar10(config: DataConfig) -> Dataset:
    """60,000 images of 3x32x32 in 10 classes; 10,000 of them for testing."""
    return _load(CIFAR10, config, "test_batch", "batches.meta", "")


def cifar100(config: DataConfig) -> Dataset:
    """60,000 images of 3x32x32 in 100 classes; 10,000 of them for testing."""
    return _load(CIFAR100, config, "test", "meta", "fine_")


def _load(
    files: Published, config: DataConfig, test: str, meta: str, prefix: str
) -> Dataset:
    paths = files.locate(config)
    train = [path for name, path in paths.items() if name not in (test, meta)]
    classes = _field(paths[meta], prefix + "label_names", list)
    return Dataset(
        train=_images(train, prefix + "labels"),
        test=_images([paths[test]], prefix + "labels"),
        classes=tuple(name.decode() for name in classes),
        image_shape=(3, 32, 32),
    )


def _field(path: Path, key: str, kind: type) -> Any:
    value = read_arrays(path).get(key)
    if not isinstance(value, kind):
        raise UserError(f"data.root: {path} holds no {key!r}")
    return value


def _images(paths: list[Path], labels_key: str) -> TensorImages:
    pixels = [_field(path, "data", np.ndarray) for path in paths]
    labels = [label for path in paths for label in _field(path, labels_key, list)]
    images = torch.from_numpy(np.concatenate(pixels)).reshape(-1, 3, 32, 32)
    return TensorImages(images, torch.tensor(labels, dtype=torch.int64))
