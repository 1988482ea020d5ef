"""Images in one NumPy file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dathvd.config import DataConfig
from dathvd.data.paths import data_root
from dathvd.data.sets import Dataset, TensorImages, split
from dathvd.errors import UserError


def arrays(config: DataConfig) -> Dataset:
    """An .npz file of ``x_train``, ``y_train`` and, unless split off, ``x_test``,
    ``y_test``.

    Images are uint8 ``[N, H, W]``, ``[N, H, W, C]`` or ``[N, C, H, W]`` with 1 or 3
    channels; labels are integers from 0, and every class below the largest one occurs.
    An array ``classes`` of text may name them.

    Raises:
        UserError: the file or an array is missing or not as it should be.
    """
    path = data_root(config)
    content = read_npz(path)
    train = _pair(path, content, "train")
    if "x_test" in content:
        test = _pair(path, content, "test")
    else:
        train, test = split(train, config.test_fraction, config.split_seed)
    _, channels, height, width = train.images.shape
    if test.images.shape[1:] != train.images.shape[1:]:
        raise UserError(f"data.root: {path}: x_train and x_test differ in shape")
    classes = _classes(path, content, train, test)
    return Dataset(train, test, classes, image_shape=(channels, height, width))


UNREADABLE = (
    OSError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    AttributeError,
    EOFError,
)
"""The errors that NumPy raises for a file that is damaged or not of its formats."""


def read_npz(path: Path, field: str = "data.root") -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file; those of Python objects are refused.

    Raises:
        UserError: it is not such a file; ``field`` of the configuration is named.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except UNREADABLE as error:
        raise unreadable(path, ".npz", field, error) from None


def unreadable(path: Path, kind: str, field: str, error: Exception) -> UserError:
    """The line for a file that NumPy cannot read, with the configuration's field."""
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{field}: {path} cannot be read as {kind}: {reason}")


def _pair(path: Path, content: dict[str, NDArray[Any]], part: str) -> TensorImages:
    for name in (f"x_{part}", f"y_{part}"):
        if name not in content:
            raise UserError(f"data.root: {path} holds no array {name}")
    labels = content[f"y_{part}"].reshape(-1)
    images = channels_first(path, f"x_{part}", content[f"x_{part}"])
    if labels.dtype.kind not in "iu" or labels.size == 0 or labels.min() < 0:
        raise UserError(f"data.root: {path}: y_{part} must be integers from 0")
    if len(labels) != len(images):
        raise UserError(
            f"data.root: {path}: {part} has {len(images)} images, {len(labels)} labels"
        )
    return TensorImages(images, torch.from_numpy(labels.astype(np.int64)))


def channels_first(
    path: Path,
    name: str,
    values: NDArray[Any],
    field: str = "data.root",
    *,
    copy: bool = True,
) -> Tensor:
    """uint8 images in any of the layouts as ``[N, C, H, W]``.

    Args:
        path: their file.
        name: theirs in it.
        values: the images.
        field: of the configuration, which errors name.
        copy: bring them into that order in memory; else the result is a view of them.

    Raises:
        UserError: they are in none of them; ``field`` of the configuration is named.
    """
    check_images(path, name, values.dtype, values.shape, field)
    if values.ndim == 3:
        values = values[:, None]
    elif values.shape[3] in (1, 3):
        values = values.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(values) if copy else values)


def check_images(
    path: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], field: str
) -> None:
    """Refuse what is not uint8 images in one of the layouts.

    Raises:
        UserError: they are in none of them; ``field`` of the configuration is named.
    """
    stacked = len(shape) == 3 or len(shape) == 4 and {shape[1], shape[3]} & {1, 3}
    if dtype != np.uint8 or not stacked:
        raise UserError(
            f"{field}: {path}: {name} must be uint8 [N, H, W], [N, H, W, C] or "
            f"[N, C, H, W], got {dtype} {list(shape)}"
        )


def _classes(
    path: Path,
    content: dict[str, NDArray[Any]],
    train: TensorImages,
    test: TensorImages,
) -> tuple[str, ...]:
    count = 1 + int(max(train.labels.max(), test.labels.max()))
    absent = set(range(count)) - set(train.labels.tolist())
    if absent:
        raise UserError(f"data.root: {path}: class {min(absent)} has no training image")
    if "classes" not in content:
        return tuple(str(index) for index in range(count))
    names = tuple(str(name) for name in content["classes"].reshape(-1))
    if len(names) < count:
        raise UserError(
            f"data.root: {path}: {len(names)} classes for labels to {count - 1}"
        )
    return names
