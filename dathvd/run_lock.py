"""One job at a time in a run folder, and whether that folder is still the same."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dathvd.errors import MachineFault, UserError
from dathvd.files import explain_os_errors

_NAME = ".lock"
_WAIT = 10.0
"""Seconds for the ranks of an attempt before this one to be gone."""
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclass
class _Held:
    """What this process holds; the lock lasts as long as the process."""

    descriptor: int | None = None
    folder: Path | None = None
    shares_root_disk: bool = True


_held = _Held()


def hold(run: Path) -> str:
    """Lock the run folder for this process; rank 0 calls it.

    A POSIX record lock: it works across hosts where the file system is shared, ends
    with the process however it ends, and is not inherited by its children.

    Returns:
        The name of a new file in the folder, by which other ranks see whether they
        have the same disk (``look_for``); ``forget`` removes it.

    Raises:
        UserError: another job holds it, or it cannot be made.
    """
    file = run / _NAME
    if _held.folder != run or _held.descriptor is None:
        release()
        with explain_os_errors("lock", file):
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _wait_for(descriptor, run)
        except BaseException:
            os.close(descriptor)
            raise
        _held.descriptor, _held.folder = descriptor, run
    name = f".root-{secrets.token_hex(8)}"
    with explain_os_errors("write", run / name):
        (run / name).touch()
    return name


def look_for(run: Path, name: str) -> None:
    """Note whether this process sees rank 0's disk: a name never asked for before is
    in no cache."""
    _held.shares_root_disk = (run / name).exists()


def forget(run: Path, name: str) -> None:
    """Remove what ``hold`` left for the other ranks."""
    (run / name).unlink(missing_ok=True)


def shares_root_disk() -> bool:
    """Whether rank 0's run folder is this process's too."""
    return _held.shares_root_disk


def release() -> None:
    """Give the lock back, for another run of the same process."""
    if _held.descriptor is not None:
        os.close(_held.descriptor)
    _held.descriptor = _held.folder = None


def check_held() -> None:
    """See that the folder is the one that was locked.

    Raises:
        MachineFault: it has gone, as with an unmounted disk; what would be written now
            would be written elsewhere.
    """
    if _held.descriptor is None or _held.folder is None:
        return
    file = _held.folder / _NAME
    try:
        there, ours = os.stat(file), os.fstat(_held.descriptor)
    except OSError as error:
        raise _gone(_held.folder, error.strerror or str(error)) from None
    if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
        raise _gone(_held.folder, "another folder is in its place")


@contextlib.contextmanager
def still_there() -> Iterator[None]:
    """A block that writes in the run folder, which must be there afterwards.

    Raises:
        MachineFault: it has gone, which is then what made the block fail, if it did.
    """
    try:
        yield
    except UserError:
        check_held()
        raise
    check_held()


def _gone(run: Path, reason: str) -> MachineFault:
    return MachineFault(f"run folder {run}: no longer there ({reason})")


def _wait_for(descriptor: int, run: Path) -> None:
    deadline = time.monotonic() + _WAIT
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return  # a file system without locks: as safe as before
            if time.monotonic() < deadline:
                time.sleep(0.2)
                continue
            raise UserError(
                f"run folder {run}: {_holder(descriptor)} works in it; wait for it, "
                "end it, or choose another --run-dir"
            ) from None
        os.ftruncate(descriptor, 0)
        who = {"host": socket.gethostname(), "pid": os.getpid()}
        os.pwrite(descriptor, json.dumps(who).encode(), 0)
        return


def _holder(descriptor: int) -> str:
    try:
        who = json.loads(os.pread(descriptor, 4096, 0))
        return f"another job (process {int(who['pid'])} on {who['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another job"
