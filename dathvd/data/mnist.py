"""MNIST and Fashion-MNIST as torchvision stores them."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dathvd.config import DataConfig
from dathvd.data.published import Published
from dathvd.data.sets import Dataset, TensorImages
from dathvd.errors import UserError

MNIST = Published(
    folder="MNIST/raw",
    files={
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
)

FASHION_MNIST = Published(
    folder="FashionMNIST/raw",
    files={
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)

GARMENTS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def mnist(config: DataConfig) -> Dataset:
    """70,000 digits of 1x28x28 (LeCun, Cortes, Burges, 1998); 10,000 for testing."""
    return _load(MNIST, config, tuple("0123456789"))


def fashion_mnist(config: DataConfig) -> Dataset:
    """70,000 garments of 1x28x28 (Xiao, Rasul, Vollgraf, 2017); 10,000 for testing."""
    return _load(FASHION_MNIST, config, GARMENTS)


def _load(files: Published, config: DataConfig, classes: tuple[str, ...]) -> Dataset:
    paths = files.locate(config)

    def part(name: str) -> TensorImages:
        images = read_idx(paths[f"{name}-images-idx3-ubyte.gz"], dimensions=3)
        labels = read_idx(paths[f"{name}-labels-idx1-ubyte.gz"], dimensions=1)
        return TensorImages(images.unsqueeze(1), labels.to(torch.int64))

    return Dataset(part("train"), part("t10k"), classes, image_shape=(1, 28, 28))


def read_idx(path: Path, dimensions: int) -> Tensor:
    """A gzipped IDX file of bytes: uint8 of that many dimensions.

    Raises:
        UserError: the file is something else, or cut off.
    """
    try:
        with gzip.open(path) as file:
            content = file.read()
        magic, *shape = struct.unpack_from(f">{1 + dimensions}I", content)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise UserError(f"data.root: {path} is no gzipped IDX file: {error}") from None
    header = 4 * (1 + dimensions)
    if magic != 0x800 + dimensions or len(content) - header != math.prod(shape):
        raise UserError(f"data.root: {path} is no IDX file of {dimensions} dimensions")
    values = np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)
    return torch.from_numpy(values.copy())
