"""From files that cannot be mapped into memory to ones that can.

An .npz file keeps each array as an .npy file, usually compressed: what is written here
is that file, unpacked. Its CRC-32, which the archive holds, is compared twice: while it
is unpacked, and when it is read again from the disk.
"""

from __future__ import annotations

import functools
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dathvd.data.arrays import UNREADABLE, check_images
from dathvd.data.extra import check_labels, keys_of, read_extra
from dathvd.data.mapped import MappedNpz, read_header
from dathvd.data.pickles import read_arrays
from dathvd.errors import UserError
from dathvd.files import explain_os_errors, write_atomically

_CHUNK = 2**24
_SOURCE = "images"
"""What errors call the argument."""

OnBytes = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


def check_names(sources: Sequence[Path]) -> None:
    """Refuse files of one name, of which the later would replace the earlier.

    Raises:
        UserError: there are two.
    """
    first: dict[str, Path] = {}
    for source in sources:
        other = first.setdefault(source.stem, source)
        if other != source:
            raise UserError(
                f"{_SOURCE}: {other} and {source} would both be written to "
                f"{source.stem}-images.npy; convert them into folders of their own"
            )


def convert(source: Path, folder: Path, on_bytes: OnBytes) -> Path:
    """Write a file's images and labels as two .npy files, which can be mapped.

    Args:
        source: .npz or .pickle, of one of the forms that ``data.extra`` takes.
        folder: takes ``NAME-images.npy`` and ``NAME-labels.npy``. Files that are there
            already and whole stay: a conversion that was stopped goes on.
        on_bytes: hears of the progress.

    Returns:
        The file of the images, which ``data.extra`` takes.

    Raises:
        UserError: the source is damaged or not of those forms, or the files cannot be
            written; what was there before is then untouched.
    """
    images = folder / f"{source.stem}-images.npy"
    labels = folder / f"{source.stem}-labels.npy"
    if source.suffix == ".npz":
        _unpack(source, images, labels, on_bytes)
    elif source.suffix == ".pickle":
        _save(source, images, labels, on_bytes)
    else:
        raise UserError(f"{_SOURCE}: {source} is neither .npz nor .pickle")
    read_extra(images)
    return images


def _unpack(source: Path, images: Path, labels: Path, on_bytes: OnBytes) -> None:
    archive = MappedNpz(source, _SOURCE)
    keys = keys_of(source, archive, _SOURCE)
    members = [archive.members[key] for key in keys]
    _check(source, keys, members[0])
    total, done = 2 * sum(member.file_size for member in members), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        on_bytes(done, total)

    for member, target in zip(members, (images, labels), strict=True):
        if not _is_whole(target, member, lambda count: None):
            _unpack_member(source, member, target, advance)
            if not _is_whole(target, member, advance):
                raise UserError(f"{target}: not what was written to it: a failing disk")
        else:
            advance(2 * member.file_size)


def _check(source: Path, keys: tuple[str, str], images: zipfile.ZipInfo) -> None:
    """Refuse, before anything is written, what ``data.extra`` would not take."""
    try:
        with zipfile.ZipFile(source) as archive, archive.open(images) as stream:
            dtype, shape, _ = read_header(stream)  # type: ignore[arg-type]
        with np.load(source, allow_pickle=False) as content:
            labels = content[keys[1]].reshape(-1)
    except UNREADABLE as error:
        raise UserError(f"{_SOURCE}: {source}: damaged: {error}") from None
    check_images(source, keys[0], dtype, shape, _SOURCE)
    check_labels(source, keys[1], labels, shape[0], _SOURCE)


def _unpack_member(
    source: Path,
    member: zipfile.ZipInfo,
    target: Path,
    advance: Callable[[int], None],
) -> None:
    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(source) as archive, archive.open(member) as stream:
            while chunk := stream.read(_CHUNK):  # its end compares the CRC-32
                file.write(chunk)
                advance(len(chunk))

    try:
        write_atomically(target, write)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise UserError(
            f"{_SOURCE}: {source}: damaged: {member.filename}: {error}"
        ) from None


def _is_whole(
    target: Path, member: zipfile.ZipInfo, advance: Callable[[int], None]
) -> bool:
    """Whether a file is a member's content, byte by byte."""
    if not target.is_file() or target.stat().st_size != member.file_size:
        return False
    crc = 0
    with explain_os_errors("read", target), open(target, "rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
            advance(len(chunk))
    return crc == member.CRC


def _save(source: Path, images: Path, labels: Path, on_bytes: OnBytes) -> None:
    content = read_arrays(source, field=_SOURCE)
    keys = keys_of(source, content, _SOURCE)
    try:
        arrays = [np.asarray(content[key]) for key in keys]
    except ValueError as error:  # lists within lists of several lengths
        raise UserError(f"{_SOURCE}: {source}: {error}") from None
    check_images(source, keys[0], arrays[0].dtype, arrays[0].shape, _SOURCE)
    check_labels(source, keys[1], arrays[1].reshape(-1), len(arrays[0]), _SOURCE)
    total, done = sum(array.nbytes for array in arrays), 0
    for array, target in zip(arrays, (images, labels), strict=True):
        write_atomically(target, functools.partial(_write, array=array))
        done += array.nbytes
        on_bytes(done, total)


def _write(file: BinaryIO, array: Any) -> None:
    np.save(file, array, allow_pickle=False)
