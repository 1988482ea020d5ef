"""One process of a host at a time."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from dathvd.files import explain_os_errors


@contextlib.contextmanager
def host_lock(path: Path) -> Iterator[None]:
    """Hold the lock file (it is made where it is missing, and stays).

    Raises:
        UserError: it cannot be made.
    """
    with explain_os_errors("lock", path):
        file = open(path, "w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def try_host_lock(path: Path) -> Iterator[bool]:
    """Hold the lock file if no other process does; whether it is held.

    Raises:
        UserError: it cannot be made.
    """
    with explain_os_errors("lock", path):
        file = open(path, "w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
