"""More training images, with labels that a model has guessed (pseudo-labels).

Carmon et al., Unlabeled Data Improves Adversarial Robustness (NeurIPS 2019), is where
the 500K TinyImages with pseudo-labels for CIFAR-10 come from.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dathvd.config import DataConfig
from dathvd.data.arrays import channels_first, read_npy, read_npz
from dathvd.data.paths import expand
from dathvd.data.pickles import read_arrays
from dathvd.data.sets import Dataset, Frames, ImageSet, TensorImages, whole_frames
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


@dataclass(frozen=True)
class Concatenated:
    """One set after another; the second one's places follow the first one's."""

    first: ImageSet
    second: ImageSet
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Tensor:
        early, late = self._parts(indices)
        images = torch.cat([self.first.batch(early), self.second.batch(late)])
        order = torch.cat([(indices < len(self.first)).nonzero(), self._late(indices)])
        return torch.empty_like(images).index_copy_(0, order.flatten(), images)

    def frames(self, indices: Tensor) -> Frames:
        early, late = self._parts(indices)
        parts = whole_frames(self.first, early), whole_frames(self.second, late)
        if all(isinstance(part, Tensor) for part in parts):
            return self.batch(indices)
        own, extra = iter(parts[0]), iter(parts[1])
        border = len(self.first)
        return [next(own if place < border else extra) for place in indices.tolist()]

    def prefetch(self, indices: Tensor) -> None:
        early, late = self._parts(indices)
        self.first.prefetch(early)
        self.second.prefetch(late)

    def _late(self, indices: Tensor) -> Tensor:
        return (indices >= len(self.first)).nonzero()

    def _parts(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        border = len(self.first)
        return indices[indices < border], indices[indices >= border] - border


def with_extra(dataset: Dataset, config: DataConfig) -> Dataset:
    """The data set with ``data.extra``'s images after its own training images.

    Raises:
        UserError: the file cannot be read, or its images or labels do not fit.
    """
    if config.extra is None:
        return dataset
    path = expand("data.extra", config.extra)
    extra = read_extra(path)
    own = tuple(dataset.train.batch(torch.zeros(1, dtype=torch.int64)).shape[1:])
    if tuple(extra.images.shape[1:]) != own:
        raise UserError(
            f"data.extra: {path} holds images of {list(extra.images.shape[1:])}, "
            f"the data set of {list(own)}"
        )
    if int(extra.labels.max()) >= len(dataset.classes):
        raise UserError(
            f"data.extra: {path} has label {int(extra.labels.max())}, the data set "
            f"{len(dataset.classes)} classes"
        )
    labels = torch.cat([dataset.train.labels, extra.labels])
    both = Concatenated(dataset.train, extra, labels)
    return replace(dataset, train=both, num_extra=len(extra))


def read_extra(path: Path) -> TensorImages:
    """Images with labels, from one of the forms in which the field publishes them.

    An .npz file or a .pickle of a dictionary that holds one of these pairs:
    ``x_train`` and ``y_train``, ``image`` and ``label``, ``images`` and ``labels``,
    ``data`` and ``labels``, ``data`` and ``extrapolated_targets``. Or an .npy file
    whose name ends in ``data``, ``images`` or ``image``, with its labels beside it in a
    file whose name ends in ``labels`` or ``label``. None of them can execute code.

    Raises:
        UserError: it is none of these, or holds something else.
    """
    content = _content(path)
    images_key, labels_key = _keys(path, content)
    images = channels_first(
        path, images_key, np.asarray(content[images_key]), field="data.extra"
    )
    labels = np.asarray(content[labels_key]).reshape(-1)
    if labels.dtype.kind not in "iu" or len(labels) != len(images) or labels.min() < 0:
        raise UserError(
            f"data.extra: {path}: {labels_key!r} must be {len(images)} integers from 0"
        )
    return TensorImages(images, torch.from_numpy(labels.astype(np.int64)))


def _content(path: Path) -> Mapping[str, Any]:
    """The arrays of the file by their names."""
    if path.suffix == ".npz":
        return read_npz(path, field="data.extra")
    if path.suffix == ".pickle":
        return read_arrays(path, field="data.extra")
    if path.suffix == ".npy":
        beside = _labels_file(path)
        return {
            "images": read_npy(path, field="data.extra"),
            "labels": read_npy(beside, field="data.extra"),
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


def _keys(path: Path, content: Mapping[str, Any]) -> tuple[str, str]:
    """The names of the images and of the labels.

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
    raise UserError(f"data.extra: {path} holds {there}{hint}; expected one of {pairs}")
