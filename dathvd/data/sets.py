"""Labelled images, and the pair of sets that a run trains and is judged on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dathvd.errors import UserError

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

    def prefetch(self, indices: Tensor) -> None:
        """Say that this batch is needed soon; nothing waits."""


Frames = Tensor | list[Tensor]
"""The images of a batch: ``[batch, C, H, W]``, or where their shapes differ a list of
``[C, H, W]``."""


@runtime_checkable
class FrameSet(ImageSet, Protocol):
    """An image set whose images are larger than those of its batches."""

    def frames(self, indices: Tensor) -> Frames:
        """uint8 images of the samples at those int64 places, whole."""


def whole_frames(images: ImageSet, indices: Tensor) -> Frames:
    """uint8 images as large as the set has them: its frames, or else its batch."""
    if isinstance(images, FrameSet):
        return images.frames(indices)
    return images.batch(indices)


class TensorImages:
    """Images that live in memory, or in a file that is mapped into it.

    Args:
        images: uint8 ``[num_samples, C, H, W]``.
        labels: int64 ``[num_samples]``.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        assert len(images) == len(labels)
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Tensor:
        return self.images.index_select(0, indices)

    def prefetch(self, indices: Tensor) -> None:
        """Do nothing: the images are there."""


class Subset:
    """A choice of images of another set.

    Args:
        images: the whole.
        places: int64, which of them, in the order of the new places.
    """

    def __init__(self, images: ImageSet, places: Tensor) -> None:
        self._images, self._places = images, places
        self.labels = images.labels[places]

    def __len__(self) -> int:
        return len(self._places)

    def batch(self, indices: Tensor) -> Tensor:
        return self._images.batch(self._places[indices])

    def frames(self, indices: Tensor) -> Frames:
        return whole_frames(self._images, self._places[indices])

    def prefetch(self, indices: Tensor) -> None:
        self._images.prefetch(self._places[indices])


@dataclass(frozen=True)
class CenterCrop:
    """The square in the middle of every image of another set."""

    images: ImageSet
    size: int

    @property
    def labels(self) -> Tensor:
        return self.images.labels

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> Tensor:
        batch = self.images.batch(indices)
        top = (batch.shape[-2] - self.size) // 2
        left = (batch.shape[-1] - self.size) // 2
        return batch[..., top : top + self.size, left : left + self.size].contiguous()

    def prefetch(self, indices: Tensor) -> None:
        self.images.prefetch(indices)


def unaugmented(images: ImageSet, shape: ImageShape) -> ImageSet:
    """Training images as evaluation would see them.

    Args:
        images: the set; larger images than ``shape`` wait for a random crop.
        shape: that the network takes; of larger images it is the middle.
    """
    return images if shape_of(images) == shape else CenterCrop(images, shape[-1])


def shape_of(images: ImageSet) -> tuple[int, ...]:
    """``(C, H, W)`` of a set's images, as the first has it."""
    return tuple(images.batch(torch.zeros(1, dtype=torch.int64)).shape[1:])


@dataclass(frozen=True)
class Dataset:
    """A training set and a test set of the same classes and image shape."""

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    image_shape: ImageShape
    """(channels, height, width) of the images that a model gets."""
    num_extra: int = 0
    """The last so many training images are extra ones (``data.extra``)."""


def split(
    images: TensorImages, test_fraction: float, seed: int
) -> tuple[TensorImages, TensorImages]:
    """A training and a test set; the seed decides which images are held out.

    Raises:
        UserError: one of them would be empty.
    """
    num_test = round(test_fraction * len(images))
    if not 0 < num_test < len(images):
        raise UserError(
            f"data.test_fraction: {test_fraction} of {len(images)} images leaves "
            "no image to train or none to test on"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    test, train = order[:num_test], order[num_test:]
    return (
        TensorImages(images.images[train], images.labels[train]),
        TensorImages(images.images[test], images.labels[test]),
    )
