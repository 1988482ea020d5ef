"""More training images, with labels that a model has guessed (pseudo-labels).

Carmon et al., Unlabeled Data Improves Adversarial Robustness (NeurIPS 2019), is where
the 500K TinyImages with pseudo-labels for CIFAR-10 come from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dathvd.config import DataConfig
from dathvd.data.arrays import channels_first, read_npz
from dathvd.data.paths import expand
from dathvd.data.pickles import read_arrays
from dathvd.data.sets import Dataset, ImageSet, TensorImages
from dathvd.errors import UserError

_KEYS = {".npz": ("x_train", "y_train"), ".pickle": ("data", "extrapolated_targets")}


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
    """Images with labels from an .npz file (``x_train``, ``y_train``) or a pickle as
    published for the 500K TinyImages (``data``, ``extrapolated_targets``).

    Neither file can execute code.

    Raises:
        UserError: it is neither, or holds something else.
    """
    if path.suffix not in _KEYS:
        raise UserError(f"data.extra: {path} is neither .npz nor .pickle")
    content = read_npz(path) if path.suffix == ".npz" else read_arrays(path)
    images_key, labels_key = _KEYS[path.suffix]
    for key in (images_key, labels_key):
        if key not in content:
            raise UserError(f"data.extra: {path} holds no {key!r}")
    images = channels_first(path, images_key, np.asarray(content[images_key]))
    labels = np.asarray(content[labels_key]).reshape(-1)
    if labels.dtype.kind not in "iu" or len(labels) != len(images) or labels.min() < 0:
        raise UserError(
            f"data.extra: {path}: {labels_key!r} must be {len(images)} integers from 0"
        )
    return TensorImages(images, torch.from_numpy(labels.astype(np.int64)))
