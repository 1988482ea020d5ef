"""More training images, with labels that a model has guessed (pseudo-labels).

Carmon et al., Unlabeled Data Improves Adversarial Robustness (NeurIPS 2019), is where
the 500K TinyImages with pseudo-labels for CIFAR-10 come from.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dathvd.config import DataConfig
from dathvd.data.arrays import channels_first
from dathvd.data.mapped import MappedNpz, map_npy
from dathvd.data.paths import expand
from dathvd.data.pickles import read_arrays
from dathvd.data.sets import (
    CenterCrop,
    Dataset,
    Frames,
    ImageSet,
    TensorImages,
    shape_of,
    whole_frames,
)
from dathvd.errors import UserError

_KEYS = (
    ("x_train", "y_train"),  # as in the data set ``arrays``
    ("image", "label"),  # generated images: Gowal et al. (2021), Wang et al. (2023)
    ("images", "labels"),
    ("data", "labels"),
    ("data", "extrapolated_targets"),  # the 500K TinyImages
)
_SIDE_BY_SIDE = {"data": "labels", "images": "labels", "image": "label"}
"""Endings of the names of .npy files: of images, and of their labels beside them."""


class Concatenated:
    """Several sets one after another; each one's places follow those before it.

    Args:
        parts: at least one.
    """

    def __init__(self, parts: Sequence[ImageSet]) -> None:
        self.parts = tuple(parts)
        self.labels = torch.cat([part.labels for part in parts])
        counts = torch.tensor([len(part) for part in parts])
        self._ends = counts.cumsum(0)
        self._starts = (self._ends - counts).tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Tensor:
        split = self._split(indices)
        return _together([(part.batch(own), places) for part, own, places in split])

    def frames(self, indices: Tensor) -> Frames:
        split = self._split(indices)
        found = [(whole_frames(part, own), places) for part, own, places in split]
        tensors = [(each, at) for each, at in found if isinstance(each, Tensor)]
        if len(tensors) == len(found):
            return _together(tensors)
        by_place = {
            place: frame
            for frames, places in found
            for place, frame in zip(places.tolist(), frames, strict=True)
        }
        return [by_place[place] for place in range(len(indices))]

    def prefetch(self, indices: Tensor) -> None:
        for part, own, _ in self._split(indices):
            part.prefetch(own)

    def _split(self, indices: Tensor) -> Iterator[tuple[ImageSet, Tensor, Tensor]]:
        """Each part that is asked for, its own places, and where they are asked for."""
        which, order = torch.bucketize(indices, self._ends, right=True).sort(
            stable=True
        )
        numbers, counts = which.unique_consecutive(return_counts=True)
        if len(numbers) == 0:  # nothing is asked for, of any part
            yield self.parts[0], indices, order
        for number, places in zip(numbers.tolist(), order.split(counts.tolist())):
            yield self.parts[number], indices[places] - self._starts[number], places


def _together(pieces: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Images of one shape, each at its place in the batch."""
    count = sum(len(places) for _, places in pieces)
    first = pieces[0][0]
    images = first.new_empty((count, *first.shape[1:]))
    for piece, places in pieces:
        images[places] = piece
    return images


def with_extra(dataset: Dataset, config: DataConfig) -> Dataset:
    """The data set with the images of ``data.extra`` after its own training images.

    Raises:
        UserError: a file cannot be read, or its images or labels do not fit.
    """
    if config.extra is None:
        return dataset
    names = (config.extra,) if isinstance(config.extra, str) else config.extra
    extra = [_fitting(expand("data.extra", name), dataset) for name in names]
    both = Concatenated([dataset.train, *extra])
    return replace(dataset, train=both, num_extra=sum(map(len, extra)))


def _fitting(path: Path, dataset: Dataset) -> ImageSet:
    """A file's images, cropped where the data set's own are and these are whole.

    Raises:
        UserError: it cannot be read, or they are not of the data set's kind.
    """
    extra, train = read_extra(path), dataset.train
    found, own = tuple(extra.images.shape[1:]), shape_of(train)
    waits = isinstance(train, CenterCrop) and found == shape_of(train.images)
    if found != own and not waits:
        raise UserError(
            f"data.extra: {path} holds images of {list(found)}, "
            f"the data set of {list(own)}"
        )
    if int(extra.labels.max()) >= len(dataset.classes):
        raise UserError(
            f"data.extra: {path} has label {int(extra.labels.max())}, the data set "
            f"{len(dataset.classes)} classes"
        )
    return CenterCrop(extra, dataset.image_shape[-1]) if waits else extra


def read_extra(path: Path) -> TensorImages:
    """Images with labels, from one of the forms in which the field publishes them.

    An .npz file or a .pickle of a dictionary that holds one of these pairs:
    ``x_train`` and ``y_train``, ``image`` and ``label``, ``images`` and ``labels``,
    ``data`` and ``labels``, ``data`` and ``extrapolated_targets``. Or an .npy file
    whose name ends in ``data``, ``images`` or ``image``, with its labels beside it in a
    file whose name ends in ``labels`` or ``label``. None of them can execute code.
    Images of .npy files and of .npz files that are not compressed stay in their file,
    which is mapped into memory.

    Raises:
        UserError: it is none of these, or holds something else.
    """
    content = _content(path)
    images_key, labels_key = keys_of(path, content)
    try:
        pixels, found = np.asarray(content[images_key]), np.asarray(content[labels_key])
    except ValueError as error:  # lists within lists of several lengths
        raise UserError(f"data.extra: {path}: {error}") from None
    images = channels_first(path, images_key, pixels, field="data.extra", copy=False)
    labels = found.reshape(-1)
    check_labels(path, labels_key, labels, len(images))
    return TensorImages(images, torch.from_numpy(labels.astype(np.int64)))


def check_labels(
    path: Path, name: str, labels: NDArray[Any], count: int, field: str = "data.extra"
) -> None:
    """Refuse what are not the classes ``[count]`` of some images.

    Raises:
        UserError: there are no images, or these are not as many integers from 0.
    """
    if count == 0:
        raise UserError(f"{field}: {path}: holds no images")
    right = labels.dtype.kind in "iu" and len(labels) == count
    if not right or labels.min() < 0 or labels.max() > np.iinfo(np.int64).max:
        raise UserError(f"{field}: {path}: {name!r} must be {count} integers from 0")


def _content(path: Path) -> Mapping[str, Any]:
    """The arrays of the file by their names."""
    if path.suffix == ".npz":
        return MappedNpz(path, "data.extra")
    if path.suffix == ".pickle":
        return read_arrays(path, field="data.extra")
    if path.suffix == ".npy":
        beside = _labels_file(path)
        return {
            "images": map_npy(path, "data.extra"),
            "labels": map_npy(beside, "data.extra"),
        }
    raise UserError(f"data.extra: {path} is none of .npz, .npy and .pickle")


def _labels_file(path: Path) -> Path:
    """The .npy file of the labels that belong to one of images."""
    for ending, other in _SIDE_BY_SIDE.items():
        if path.stem.endswith(ending):
            return path.with_name(f"{path.stem.removesuffix(ending)}{other}.npy")
    raise UserError(
        f"data.extra: {path}: the name of an .npy file of images must end in "
        f"{', '.join(_SIDE_BY_SIDE)}, so that its labels are found beside it"
    )


def keys_of(
    path: Path, content: Mapping[str, Any], field: str = "data.extra"
) -> tuple[str, str]:
    """The names of the images and of the labels in a file.

    Raises:
        UserError: no pair is complete; it names what is there.
    """
    for pair in _KEYS:
        if all(key in content for key in pair):
            return pair
    there = ", ".join(repr(key) for key in content) or "nothing"
    known = {key for pair in _KEYS for key in pair}
    hints = [
        f"{key!r}: did you mean {close[0]!r}?"
        for key in content
        if key not in known and (close := difflib.get_close_matches(key, known, n=1))
    ]
    pairs = ", ".join("/".join(pair) for pair in _KEYS)
    hint = f" ({'; '.join(hints)})" if hints else ""
    raise UserError(f"{field}: {path} holds {there}{hint}; expected one of {pairs}")
