"""Street View House Numbers, cropped digits, as torchvision stores them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dathvd.config import DataConfig
from dathvd.data.published import Published
from dathvd.data.sets import Dataset, TensorImages
from dathvd.errors import UserError

SVHN = Published(
    folder=".",
    files={
        "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
        "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    },
    url="http://ufldl.stanford.edu/housenumbers/",
)


def svhn(config: DataConfig) -> Dataset:
    """73,257 and 26,032 digits of 3x32x32 (Netzer et al., 2011)."""
    paths = SVHN.locate(config)
    return Dataset(
        train=_read(paths["train_32x32.mat"]),
        test=_read(paths["test_32x32.mat"]),
        classes=tuple("0123456789"),
        image_shape=(3, 32, 32),
    )


def _read(path: Path) -> TensorImages:
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=["X", "y"])
        pixels = np.asarray(content["X"], dtype=np.uint8).transpose(3, 2, 0, 1)
        labels = np.asarray(content["y"], dtype=np.int64).reshape(-1)
    except Exception as error:  # noqa: B902 (a broken file raises anything)
        raise UserError(f"data.root: {path} is no SVHN file: {error}") from None
    # the files call the digit 0 class 10
    images = torch.from_numpy(np.ascontiguousarray(pixels))
    return TensorImages(images, torch.from_numpy(labels).remainder(10))
