"""NumPy files as arrays that are mapped into memory: nothing is read before it is used.

The pages of a mapped file belong to the operating system's cache: all processes of a
host that map it share one copy, which gives way where memory runs short.
"""

from __future__ import annotations

import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dathvd.data.arrays import UNREADABLE, unreadable
from dathvd.errors import UserError

_LOCAL_HEADER = struct.Struct("<26xHH")
"""Of a zip's member: lengths of its name and of its extra field, at bytes 26 to 29."""
LARGE = 2**28
"""Bytes of an array above which a copy in every process deserves a word."""


def map_npy(path: Path, field: str) -> NDArray[Any]:
    """The array of an .npy file; one of Python objects is refused.

    Raises:
        UserError: it is not such a file; ``field`` of the configuration is named.
    """
    try:
        # copy-on-write: torch has no read-only tensors
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except UNREADABLE as error:
        raise unreadable(path, ".npy", field, error) from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{field}: {path} holds several arrays: call it .npz")
    return array


class MappedNpz(Mapping[str, NDArray[Any]]):
    """The arrays of an .npz file by name, each mapped when it is asked for.

    A compressed one cannot be mapped: it is read into this process's own memory, with a
    warning where it is large.

    Args:
        path: the file.
        field: of the configuration, which errors name.

    Raises:
        UserError: it is not such a file.
    """

    def __init__(self, path: Path, field: str) -> None:
        self.path, self._field = path, field
        try:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
        except UNREADABLE as error:
            raise unreadable(path, ".npz", field, error) from None
        self.members = {
            info.filename.removesuffix(".npy"): info
            for info in infos
            if info.filename.endswith(".npy")
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, name: object) -> bool:
        return name in self.members  # without reading it

    def __getitem__(self, name: str) -> NDArray[Any]:
        member = self.members[name]
        try:
            if member.compress_type == zipfile.ZIP_STORED:
                return _map_member(self.path, member)
            if member.file_size > LARGE:
                warnings.warn(
                    f"{self._field}: {self.path}: {name} is compressed and takes "
                    f"{member.file_size / 1e9:.1f} GB of every worker's memory; dathvd "
                    "convert-images makes files that all workers of a host share",
                    stacklevel=2,
                )
            with np.load(self.path, allow_pickle=False) as content:
                found: NDArray[Any] = content[name]
            return found
        except UNREADABLE as error:
            raise unreadable(self.path, ".npz", self._field, error) from None


def _map_member(path: Path, member: zipfile.ZipInfo) -> NDArray[Any]:
    """The array of a member that is stored as it is."""
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        start = member.header_offset + _LOCAL_HEADER.size + name + extra
        file.seek(start)
        dtype, shape, fortran = read_header(file)
        offset = file.tell()
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if offset - start + size != member.file_size:
        raise ValueError(f"{member.filename} is cut off")
    if size == 0:
        return np.empty(shape, dtype)
    mapped: NDArray[Any] = np.memmap(
        path, dtype, mode="c", offset=offset, shape=shape, order="F" if fortran else "C"
    )
    return mapped


def read_header(file: BinaryIO) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """What an .npy file's header says: type, shape, whether in Fortran's order.

    Raises:
        ValueError: it is no such file, or one of Python objects.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return dtype, shape, fortran
