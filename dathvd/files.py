"""Writing files whole or not at all; every failure is one line."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dathvd.errors import MachineFault, UserError

# what a disk or a server of files says that fails: no user's mistake
_FAULTS = {
    errno.EIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.ENODEV,
    errno.ENXIO,
    errno.EREMOTEIO,
    errno.ESHUTDOWN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
}


@contextlib.contextmanager
def explain_os_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an operating-system error into one line that names the path.

    Raises:
        MachineFault: the disk or the network failed.
        UserError: anything else, such as a missing file or a full disk.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        kind = MachineFault if error.errno in _FAULTS else UserError
        problem = kind(f"cannot {action} {path}: {reason}")
        problem.unreadable = action == "read"
        raise problem from None


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write to a temporary file beside ``path``, flush it to disk, rename it.

    Raises:
        UserError: the file cannot be written (full disk, no permission, …); an older
            file of that name is then untouched and nothing else is left.
    """
    with explain_os_errors("write", path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes atomically."""

    def write(file: BinaryIO) -> None:
        file.write(data)

    write_atomically(path, write)


def check_place(option: str, path: Path | None, made: Path | None = None) -> None:
    """Refuse, before hours of work, a file that could not be written after them.

    Args:
        option: that names the file.
        path: the file; None where there is none.
        made: a folder that is made for other results, and may hold the file.

    Raises:
        UserError: its folder is not there or not writable, or it is a folder itself.
    """
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{option} {path}: is a folder; name a file in it")
    if path.parent != made and not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: no folder to write in")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def make_folder(path: Path) -> None:
    """Create a folder and its parents.

    Raises:
        UserError: it cannot be created or written to.
    """
    with explain_os_errors("create folder", path):
        path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to folder {path}: Permission denied")
