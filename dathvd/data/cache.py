"""Decode once: all images of a set in files that workers map into memory.

A set is cut into parts of ``PART`` images, each a file of its own. The workers of a
host share the work: each takes parts that nobody has written or is writing. A part is
renamed when it is whole, so that what a killed run has written stays, and the next one
decodes the rest. Nothing is put together afterwards: parts are read where they lie.

Images of one shape are ``.npy`` files. Whole frames lie one after another in a ``.bin``
file, and their heights and widths in a ``.npy`` file beside it, which is written last.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dathvd.data.decode import Decoder
from dathvd.data.frames import FlatFrames
from dathvd.data.lock import host_lock
from dathvd.data.parts import FrameParts, ImageParts
from dathvd.data.sets import ImageSet, TensorImages
from dathvd.errors import UserError
from dathvd.files import explain_os_errors, make_folder, write_atomically
from dathvd.ranks import launched_local_rank

PART = 1024
"""Images of a part."""
_SAY_EVERY = 10.0  # seconds
_FORMAT = 2  # of what is decoded: another number has it decoded anew


def cached_images(
    folder: Path,
    decoder: Decoder,
    paths: Sequence[str],
    labels: Tensor,
    num_threads: int,
) -> ImageSet:
    """The images from the cache's parts, which the workers of a host write together.

    Their folder's name depends on every image file's path, size and time of change, on
    the shape, and on whether images are whole, so that a changed set gets a new one.
    Workers share its pages.

    Raises:
        UserError: the cache cannot be written or read, or an image cannot be.
    """
    kind = "frames" if decoder.whole else "images"
    cache = _Cache(folder / f"{kind}-{_key(decoder, paths)}", decoder, paths)
    make_folder(cache.folder)
    cache.write(num_threads)
    if decoder.whole:
        return FrameParts([cache.frames(n, labels) for n in cache.parts], PART)
    return ImageParts([cache.images(n, labels) for n in cache.parts], PART)


def _key(decoder: Decoder, paths: Sequence[str]) -> str:
    whole = ["whole"] if decoder.whole else []
    geometry = [_FORMAT, PART, decoder.shape, decoder.resize, *whole]
    digest = hashlib.sha256(json.dumps(geometry).encode())
    for path in paths:
        with explain_os_errors("read", Path(path)):
            status = os.stat(path)
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _Cache:
    """The parts of one set in their folder."""

    folder: Path
    decoder: Decoder
    paths: Sequence[str]

    @property
    def parts(self) -> range:
        return range(-(-len(self.paths) // PART))

    def write(self, num_threads: int) -> None:
        """Write what is missing, beside the host's other workers; wait for theirs."""
        said = time.monotonic()
        for part in self._missing():
            with host_lock(self._lock(part), wait=False) as held:
                if held and not self._file(part).exists():
                    self._write_part(part, num_threads)
            if time.monotonic() - said > _SAY_EVERY and launched_local_rank() == 0:
                said = time.monotonic()
                self._say()
        for part in self._missing():  # others write it, or were killed while they did
            with host_lock(self._lock(part)):
                if not self._file(part).exists():
                    self._write_part(part, num_threads)

    def images(self, part: int, labels: Tensor) -> TensorImages:
        """A part's images of one shape, mapped."""
        own, file = labels[self._slice(part)], self._file(part)
        try:
            # copy-on-write: torch has no read-only tensors
            array = np.load(file, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise _unreadable(file, error) from None
        if array.shape != (len(own), *self.decoder.shape) or array.dtype != np.uint8:
            raise _other_images(file)
        return TensorImages(_read_at_random(array), own)

    def frames(self, part: int, labels: Tensor) -> FlatFrames:
        """A part's whole frames, mapped."""
        own, file = labels[self._slice(part)], self._file(part)
        try:
            sizes = torch.from_numpy(np.load(file, allow_pickle=False).astype(np.int64))
            flat = np.memmap(file.with_suffix(".bin"), dtype=np.uint8, mode="c")
        except (OSError, ValueError) as error:
            raise _unreadable(file, error) from None
        fits = sizes.shape == (len(own), 2)
        if not fits or len(flat) != self.decoder.shape[0] * int(sizes.prod(1).sum()):
            raise _other_images(file)
        return FlatFrames(_read_at_random(flat), sizes, own, self.decoder.shape)

    def _write_part(self, part: int, num_threads: int) -> None:
        paths, file = self.paths[self._slice(part)], self._file(part)
        sizes: list[tuple[int, ...]] = []

        def write(stream: BinaryIO) -> None:
            if not self.decoder.whole:
                shape = (len(paths), *self.decoder.shape)
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, header)
            for chunk in self.decoder.chunks(paths, num_threads):
                stream.writelines(np.ascontiguousarray(image).data for image in chunk)
                sizes.extend(image.shape[1:] for image in chunk)

        if not self.decoder.whole:
            write_atomically(file, write)
            return
        write_atomically(file.with_suffix(".bin"), write)
        write_atomically(file, lambda stream: np.save(stream, np.array(sizes)))

    def _missing(self) -> list[int]:
        return [part for part in self.parts if not self._file(part).exists()]

    def _say(self) -> None:
        done = (len(self.parts) - len(self._missing())) * PART
        total = len(self.paths)
        print(f"data.cache: {min(done, total):,} of {total:,} images", file=sys.stderr)

    def _slice(self, part: int) -> slice:
        return slice(part * PART, (part + 1) * PART)

    def _file(self, part: int) -> Path:
        return self.folder / f"{part:06d}.npy"

    def _lock(self, part: int) -> Path:
        return self.folder / f".{part:06d}.lock"


def _read_at_random(array: NDArray[np.uint8]) -> Tensor:
    """The mapped array, of which the kernel shall read no more than is asked for.

    Reading ahead would push out the pages of images that are needed sooner.
    """
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap):
        mapped.madvise(mmap.MADV_RANDOM)
    return torch.from_numpy(array)


def _unreadable(file: Path, error: Exception) -> UserError:
    return UserError(f"data.cache: {file} cannot be read: {error}")


def _other_images(file: Path) -> UserError:
    return UserError(f"data.cache: {file} holds other images; delete it")
