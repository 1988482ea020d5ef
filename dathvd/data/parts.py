"""Image sets that lie in several parts of equal length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from dathvd.data.frames import FlatFrames
from dathvd.data.sets import Frames, ImageSet, TensorImages

Part = TypeVar("Part", bound=ImageSet)


class _Parts(Generic[Part]):
    """Parts one after another, found by a division.

    ``Concatenated`` takes parts of any lengths and three times as long for a batch that
    comes from hundreds of them.

    Args:
        parts: at least one; all but the last of the same length.
        length: that length.
    """

    def __init__(self, parts: Sequence[Part], length: int) -> None:
        self._parts, self._length = parts, length
        self.labels = torch.cat([part.labels for part in parts])

    def __len__(self) -> int:
        return len(self.labels)

    def prefetch(self, indices: Tensor) -> None:
        """Do nothing: the images are there."""

    def batch(self, indices: Tensor) -> Tensor:
        """uint8 ``[batch, C, H, W]`` of the samples at those int64 places."""
        if len(indices) == 0:
            return self._parts[0].batch(indices)
        return torch.cat(self._each(indices, lambda part, one: part.batch(one)))

    def _each(
        self, indices: Tensor, fetch: Callable[[Part, Tensor], Tensor]
    ) -> list[Tensor]:
        """What ``fetch`` gets for each sample, from its part and its place there."""
        places = zip((indices // self._length).tolist(), indices % self._length)
        return [fetch(self._parts[part], place[None]) for part, place in places]


class ImageParts(_Parts[TensorImages]):
    """Images of one shape, in parts."""


class FrameParts(_Parts[FlatFrames]):
    """Whole frames, in parts."""

    def frames(self, indices: Tensor) -> Frames:
        """uint8 images of the samples at those int64 places, whole."""
        if len(indices) == 0:
            return self.batch(indices)
        return self._each(indices, lambda part, one: part.frames(one)[0])
