"""Labelled images, and the pair of sets that a run trains and is judged on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

ImageShape = tuple[int, int, int]


class ImageSet(Protocol):
    """Labelled images that are fetched by their places."""

    @property
    def labels(self) -> Tensor:
        """int64 ``[num_samples]``, in [0, number of classes)."""

    def __len__(self) -> int:
        """Number of samples."""

    def batch(self, indices: Tensor) -> Tensor:
        """uint8 ``[batch, C, H, W]`` of the samples at those int64 places."""


class TensorImages:
    """Images that live in memory.

    Args:
        images: uint8 ``[num_samples, C, H, W]``.
        labels: int64 ``[num_samples]``.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        assert len(images) == len(labels)
        self._images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Tensor:
        return self._images.index_select(0, indices)


@dataclass(frozen=True)
class Dataset:
    """A training set and a test set of the same classes and image shape."""

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    image_shape: ImageShape
    """(channels, height, width) of the images that a model gets."""
