"""Files of published data sets: where they are, whether they are whole, fetching."""

from __future__ import annotations

import hashlib
import http.client
import tarfile
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dathvd.config import DataConfig
from dathvd.data.lock import host_lock
from dathvd.data.paths import data_root
from dathvd.errors import UserError
from dathvd.files import (
    explain_os_errors,
    make_folder,
    write_atomically,
    write_bytes,
)

_CHUNK = 1 << 20
_TIMEOUT = 60
"""Seconds without a byte after which a download is given up."""


@dataclass(frozen=True)
class Published:
    """A data set's files as torchvision names and lays them out.

    The MD5 sums, which are the published ones, find damaged files; they are no
    protection from forged ones, so readers do not trust what they read.
    """

    folder: str
    """Folder of the files under the data root."""
    files: Mapping[str, str]
    """MD5 sum of each file."""
    url: str
    """The address of the files, or with ``archive`` of that."""
    archive: tuple[str, str] | None = None
    """Name and MD5 sum of a tar file of ``folder``, kept in the data root."""

    def locate(self, config: DataConfig) -> dict[str, Path]:
        """Path of every file, checked; missing ones are unpacked, or fetched if asked.

        Raises:
            UserError: a file is missing, damaged, or cannot be fetched.
        """
        root = data_root(config)
        paths = {name: root / self.folder / name for name in self.files}
        if not all(path.is_file() for path in paths.values()):
            self._provide(root, paths, config.download)
        for name, path in paths.items():
            _verify(path, self.files[name])
        return paths

    def _provide(self, root: Path, paths: dict[str, Path], download: bool) -> None:
        packed = None if self.archive is None else root / self.archive[0]
        if not download and not (packed and packed.is_file()):
            lacking = next(path for path in paths.values() if not path.is_file())
            raise UserError(
                f"data.root: {lacking} is missing (data.download: true fetches it)"
            )
        make_folder(root / self.folder)
        with host_lock(root / f".{Path(self.folder).parts[0]}.lock"):
            if self.archive is None:
                for name, path in paths.items():
                    _fetch(self.url + name, path, self.files[name])
            else:
                archive = root / self.archive[0]
                _fetch(self.url, archive, self.archive[1])
                _verify(archive, self.archive[1])
                self._unpack(archive, paths)

    def _unpack(self, archive: Path, paths: dict[str, Path]) -> None:
        """Unpack the files that are known, by name, each whole or not at all."""
        try:
            with tarfile.open(archive) as packed:
                for name, path in paths.items():
                    member = packed.extractfile(f"{self.folder}/{name}")
                    if member is None:
                        raise KeyError(name)
                    data = member.read()
                    write_bytes(path, data)
        except (tarfile.TarError, KeyError, EOFError, OSError) as error:
            raise UserError(
                f"data.root: {archive} cannot be unpacked: {error}"
            ) from None


def _verify(path: Path, md5: str) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    with explain_os_errors("read", path), open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != md5:
        raise UserError(f"data.root: {path} is damaged (MD5 differs); delete it")


def _download(url: str) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            while chunk := answer.read(_CHUNK):
                yield chunk
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"data.download: {url} cannot be fetched: {reason}") from None


def _fetch(url: str, path: Path, md5: str) -> None:
    """Download a file that is not there; it appears only when whole and right."""
    if path.is_file():
        return

    def write(file: BinaryIO) -> None:
        digest = hashlib.md5(usedforsecurity=False)
        for chunk in _download(url):
            digest.update(chunk)
            file.write(chunk)
        if digest.hexdigest() != md5:
            raise UserError(f"data.download: {url} is not what was published (MD5)")

    write_atomically(path, write)
