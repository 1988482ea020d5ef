"""Decode once: all images of a set in one file that workers map into memory."""

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
from dathvd.data.lock import host_lock
from dathvd.data.sets import TensorImages
from dathvd.errors import UserError
from dathvd.files import explain_os_errors, make_folder, write_atomically


def cached_images(
    folder: Path,
    decoder: Decoder,
    paths: Sequence[str],
    labels: Tensor,
    num_threads: int,
) -> TensorImages:
    """The images from the cache's file, which the first worker of a host writes.

    Its name depends on every image file's path, size and time of change, and on the
    shape, so a changed folder gets a new file. Workers share its pages.

    Raises:
        UserError: the cache cannot be written or read, or an image cannot be.
    """
    make_folder(folder)
    file = folder / f"images-{_key(decoder, paths)}.npy"
    shape = (len(paths), *decoder.shape)
    with host_lock(folder / f".{file.name}.lock"):
        if not file.exists():
            write_atomically(
                file, lambda stream: _write(stream, shape, decoder, paths, num_threads)
            )
    return TensorImages(_map(file, shape), labels)


def _key(decoder: Decoder, paths: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps([decoder.shape, decoder.resize]).encode())
    for path in paths:
        with explain_os_errors("read", Path(path)):
            status = os.stat(path)
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _write(
    stream: BinaryIO,
    shape: tuple[int, ...],
    decoder: Decoder,
    paths: Sequence[str],
    num_threads: int,
) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    for chunk in decoder.chunks(paths, num_threads):
        stream.write(chunk.tobytes())


def _map(file: Path, shape: tuple[int, ...]) -> Tensor:
    try:
        # copy-on-write: torch has no read-only tensors
        array = np.load(file, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"data.cache: {file} cannot be read: {error}") from None
    if array.shape != shape or array.dtype != np.uint8:
        raise UserError(f"data.cache: {file} holds other images; delete it")
    return torch.from_numpy(array)
