"""Decode once: all images of a set in a file that workers map into memory.

Images of one shape are one .npy file. Whole frames lie one after another in a .bin
file, and their heights and widths in a .npy file beside it, which is written last.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from dathvd.data.decode import Decoder
from dathvd.data.frames import FlatFrames
from dathvd.data.lock import host_lock
from dathvd.data.sets import ImageSet, TensorImages
from dathvd.errors import UserError
from dathvd.files import explain_os_errors, make_folder, write_atomically


def cached_images(
    folder: Path,
    decoder: Decoder,
    paths: Sequence[str],
    labels: Tensor,
    num_threads: int,
) -> ImageSet:
    """The images from the cache's file, which the first worker of a host writes.

    Its name depends on every image file's path, size and time of change, on the shape,
    and on whether images are whole, so a changed folder gets a new file. Workers share
    its pages.

    Raises:
        UserError: the cache cannot be written or read, or an image cannot be.
    """
    make_folder(folder)
    kind = "frames" if decoder.whole else "images"
    file = folder / f"{kind}-{_key(decoder, paths)}.npy"
    with host_lock(folder / f".{file.name}.lock"):
        if not file.exists():
            write = _write_frames if decoder.whole else _write_images
            write(file, decoder, paths, num_threads)
    if decoder.whole:
        return _mapped_frames(file, decoder, labels)
    return TensorImages(_mapped(file, (len(paths), *decoder.shape)), labels)


def _key(decoder: Decoder, paths: Sequence[str]) -> str:
    geometry = [decoder.shape, decoder.resize, *(["whole"] if decoder.whole else [])]
    digest = hashlib.sha256(json.dumps(geometry).encode())
    for path in paths:
        with explain_os_errors("read", Path(path)):
            status = os.stat(path)
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _write_images(
    file: Path, decoder: Decoder, paths: Sequence[str], num_threads: int
) -> None:
    shape = (len(paths), *decoder.shape)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}

    def write(stream: BinaryIO) -> None:
        np.lib.format.write_array_header_1_0(stream, header)
        for chunk in decoder.chunks(paths, num_threads):
            stream.writelines(image.data for image in chunk)

    write_atomically(file, write)


def _write_frames(
    file: Path, decoder: Decoder, paths: Sequence[str], num_threads: int
) -> None:
    sizes: list[tuple[int, ...]] = []

    def write(stream: BinaryIO) -> None:
        for chunk in decoder.chunks(paths, num_threads):
            stream.writelines(image.data for image in chunk)
            sizes.extend(image.shape[1:] for image in chunk)

    write_atomically(file.with_suffix(".bin"), write)
    write_atomically(file, lambda stream: np.save(stream, np.array(sizes)))


def _mapped_frames(file: Path, decoder: Decoder, labels: Tensor) -> FlatFrames:
    pixels = file.with_suffix(".bin")
    try:
        sizes = torch.from_numpy(np.load(file, allow_pickle=False).astype(np.int64))
        # copy-on-write: torch has no read-only tensors
        flat = torch.from_numpy(np.memmap(pixels, dtype=np.uint8, mode="c"))
    except (OSError, ValueError) as error:
        raise UserError(f"data.cache: {file} cannot be read: {error}") from None
    fits = sizes.shape == (len(labels), 2)
    if not fits or len(flat) != decoder.shape[0] * int(sizes.prod(dim=1).sum()):
        raise UserError(f"data.cache: {file} holds other images; delete it")
    return FlatFrames(flat, sizes, labels, decoder.shape)


def _mapped(file: Path, shape: tuple[int, ...]) -> Tensor:
    try:
        # copy-on-write: torch has no read-only tensors
        array = np.load(file, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"data.cache: {file} cannot be read: {error}") from None
    if array.shape != shape or array.dtype != np.uint8:
        raise UserError(f"data.cache: {file} holds other images; delete it")
    return torch.from_numpy(array)
