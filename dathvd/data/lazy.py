"""Image files that are decoded when they are needed, or a little before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dathvd.data.decode import Decoder
from dathvd.data.frames import central
from dathvd.data.sets import Frames


class FileImages:
    """Images that live in files; threads decode them.

    Args:
        decoder: reads one file.
        paths: the files.
        labels: int64 ``[len(paths)]``.
        num_threads: decoders at work at once; they run while the network computes.
    """

    def __init__(
        self, decoder: Decoder, paths: Sequence[str], labels: Tensor, num_threads: int
    ) -> None:
        self._decoder = decoder
        self._paths = paths
        self.labels = labels
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
        self._pending: dict[int, Future[NDArray[np.uint8]]] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def prefetch(self, indices: Tensor) -> None:
        """Start to decode; what was announced before and not fetched is given up."""
        wanted: dict[int, None] = dict.fromkeys(indices.tolist())
        for place, future in self._pending.items():
            if place not in wanted:
                future.cancel()
        self._pending = {
            place: self._pending.get(place)
            or self._pool.submit(self._decoder, self._paths[place])
            for place in wanted
        }

    def batch(self, indices: Tensor) -> Tensor:
        images = torch.empty((len(indices), *self._decoder.shape), dtype=torch.uint8)
        for row, decoded in zip(images.numpy(), self._decoded(indices)):
            row[...] = decoded
        return images

    def _decoded(self, indices: Tensor) -> Iterator[NDArray[np.uint8]]:
        """The files' images in that order."""
        places: list[int] = indices.tolist()
        futures = [
            self._take(place) or self._pool.submit(self._decoder, self._paths[place])
            for place in places
        ]
        for future in futures:
            yield future.result()

    def _take(self, place: int) -> Future[NDArray[np.uint8]] | None:
        """The decoding that prefetch has started for that sample, or None."""
        return self._pending.pop(place) if place in self._pending else None


class FileFrames(FileImages):
    """Frames that live in files; threads decode them."""

    def frames(self, indices: Tensor) -> Frames:
        frames = [torch.from_numpy(image) for image in self._decoded(indices)]
        return frames or self.batch(indices)

    def batch(self, indices: Tensor) -> Tensor:
        shape = self._decoder.shape
        images = torch.empty((len(indices), *shape), dtype=torch.uint8)
        for image, decoded in zip(images, self._decoded(indices)):
            image.copy_(central(torch.from_numpy(decoded), shape))
        return images
