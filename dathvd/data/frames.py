"""Whole images of several shapes: a random crop may cut any part of them.

The central square of such an image (``data.image_size`` on either side) is what
evaluation sees. A crop of training is cut from the whole frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dathvd.data.sets import Frames, ImageShape
from dathvd.devices import to_device


def as_floats(frames: Frames, device: torch.device) -> Frames:
    """uint8 images as float32 in [0, 1] on that device."""
    if isinstance(frames, Tensor):
        return to_device(frames, device).float().div_(255)
    return [to_device(frame, device).float().div_(255) for frame in frames]


def central(frame: Tensor, shape: ImageShape) -> Tensor:
    """The middle ``[C, H, W]`` of an image that is at least as large."""
    _, height, width = shape
    top, left = (frame.shape[1] - height) // 2, (frame.shape[2] - width) // 2
    return frame[:, top : top + height, left : left + width]


class FlatFrames:
    """Frames that lie one after another in memory, or in a file mapped into it.

    Args:
        pixels: uint8 ``[all values]``, each frame in the order channel, row, column.
        sizes: int64 ``[num_samples, 2]``, the frames' heights and widths.
        labels: int64 ``[num_samples]``.
        shape: (channels, height, width) of a batch's images, the frames' middles.
    """

    def __init__(
        self, pixels: Tensor, sizes: Tensor, labels: Tensor, shape: ImageShape
    ) -> None:
        assert len(sizes) == len(labels)
        self.labels = labels
        self._pixels, self._sizes, self._shape = pixels, sizes, shape
        self._ends = (shape[0] * sizes.prod(dim=1)).cumsum(0)

    def __len__(self) -> int:
        return len(self.labels)

    def prefetch(self, indices: Tensor) -> None:
        """Do nothing: the frames are there."""

    def frames(self, indices: Tensor) -> Frames:
        frames = [self._frame(place) for place in indices.tolist()]
        return frames or self.batch(indices)

    def batch(self, indices: Tensor) -> Tensor:
        images = torch.empty((len(indices), *self._shape), dtype=torch.uint8)
        for image, place in zip(images, indices.tolist()):
            image.copy_(central(self._frame(place), self._shape))
        return images

    def _frame(self, place: int) -> Tensor:
        height, width = self._sizes[place].tolist()
        end = int(self._ends[place])
        pixels = self._pixels[end - self._shape[0] * height * width : end]
        return pixels.view(self._shape[0], height, width)
