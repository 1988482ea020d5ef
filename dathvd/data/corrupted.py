"""The published folders of corrupted test images: CIFAR-10-C and ImageNet-C.

Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations, ICLR 2019. CIFAR-10-C (and CIFAR-100-C) is a file ``KIND.npy`` for
each kind, uint8 ``[5 * N, H, W, C]``, severity after severity, and ``labels.npy``.
ImageNet-C is a folder ``KIND/SEVERITY/CLASS/*`` of images that are cropped already.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dathvd.data.decode import Decoder
from dathvd.data.folder import classes_of, files_of, in_turn
from dathvd.data.lazy import FileImages
from dathvd.data.mapped import map_npy
from dathvd.data.sets import ImageSet, ImageShape
from dathvd.errors import UserError, nearest

_FIELD = "--corruptions-from"
_LABELS = "labels"
_SEVERITIES = 5


class MappedImages:
    """Images of a mapped file, from one place to another.

    Args:
        images: uint8 ``[num_samples, H, W, C]``.
        labels: int64 ``[num_samples]``.
    """

    def __init__(self, images: NDArray[Any], labels: Tensor) -> None:
        self._images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Tensor:
        """uint8 ``[batch, C, H, W]`` of the samples at those places."""
        taken = np.ascontiguousarray(self._images[indices.cpu().numpy()])
        return torch.from_numpy(taken).permute(0, 3, 1, 2).contiguous()

    def prefetch(self, indices: Tensor) -> None:
        """Nothing: the file is mapped."""


def kinds_in(folder: Path) -> list[str]:
    """The kinds of corruption in a published folder, sorted.

    Raises:
        UserError: it is none.
    """
    if not folder.is_dir():
        raise UserError(f"{_FIELD}: {folder} is missing")
    files = sorted(file.stem for file in folder.glob("*.npy") if file.stem != _LABELS)
    kinds = files or sorted(each.name for each in folder.iterdir() if each.is_dir())
    if not kinds:
        raise UserError(f"{_FIELD}: {folder} holds neither KIND.npy nor folders")
    return kinds


def corrupted_images(
    folder: Path, kind: str, severity: int, classes: Sequence[str], shape: ImageShape
) -> ImageSet:
    """The test images of one kind and severity.

    Args:
        folder: CIFAR-10-C's or ImageNet-C's.
        kind: such as ``fog``.
        severity: 1 to 5.
        classes: of the data set, in order.
        shape: that the network takes.

    Raises:
        UserError: they are not there, or not of that shape and those classes.
    """
    kinds = kinds_in(folder)
    if kind not in kinds:
        raise UserError(f"{_FIELD}: {folder} has no {kind!r} {nearest(kind, kinds)}")
    if (folder / f"{kind}.npy").is_file():
        return _from_arrays(folder, kind, severity, len(classes), shape)
    return _from_files(folder / kind / str(severity), list(classes), shape)


def check_corrupted(
    folder: Path,
    kind: str,
    severities: Sequence[int],
    classes: Sequence[str],
    shape: ImageShape,
) -> None:
    """See that there are such images, without reading any.

    Raises:
        UserError: as ``corrupted_images``, apart from what image files hold.
    """
    for severity in severities:
        if (folder / f"{kind}.npy").is_file():
            _from_arrays(folder, kind, severity, len(classes), shape)
        else:
            _classes_in(folder / kind / str(severity), list(classes))


def _from_arrays(
    folder: Path, kind: str, severity: int, num_classes: int, shape: ImageShape
) -> ImageSet:
    images = map_npy(folder / f"{kind}.npy", _FIELD)
    numbers = map_npy(folder / f"{_LABELS}.npy", _FIELD)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise UserError(
            f"{_FIELD}: {folder / f'{_LABELS}.npy'} holds {numbers.dtype} of shape "
            f"{numbers.shape}, expected whole numbers [N]"
        )
    labels = numbers.astype(np.int64)
    channels, height, width = shape
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, channels):
        raise UserError(
            f"{_FIELD}: {folder / f'{kind}.npy'} holds {images.dtype} of shape "
            f"{images.shape}, expected uint8 [N, {height}, {width}, {channels}]"
        )
    if len(labels) != len(images) or len(images) % _SEVERITIES:
        raise UserError(
            f"{_FIELD}: {folder}: {len(images)} images of {kind} and {len(labels)} "
            "labels; expected as many, five severities of equal length"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise UserError(f"{_FIELD}: {folder}: labels beyond {num_classes} classes")
    count = len(images) // _SEVERITIES
    part = slice((severity - 1) * count, severity * count)
    return MappedImages(images[part], torch.from_numpy(labels[part]))


def _classes_in(place: Path, classes: list[str]) -> list[str]:
    """The class folders, which are those of the data set."""
    found = classes_of(place, _FIELD)
    unlike = sorted(set(found) ^ set(classes))
    if unlike:
        raise UserError(f"{_FIELD}: {place}: other classes, such as {unlike[0]}")
    return found


def _from_files(place: Path, classes: list[str], shape: ImageShape) -> ImageSet:
    found = _classes_in(place, classes)
    files, labels = in_turn(*files_of(place, found, _FIELD))
    order = torch.tensor([classes.index(name) for name in found])
    channels, height, width = shape
    decoder = Decoder.for_images(files[0], height, channels)
    if decoder.shape != tuple(shape):
        raise UserError(f"{_FIELD}: {place}: images are not of {width}x{height}")
    return FileImages(decoder, files, order[labels], num_threads=4)
