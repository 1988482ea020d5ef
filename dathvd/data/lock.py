"""One process of a host at a time."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from dathvd.files import explain_os_errors


@contextlib.contextmanager
def host_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file (it is made where it is missing, and stays).

    Args:
        path: the file.
        wait: until no other process holds it; else it may stay another's.

    Yields:
        Whether it is held.

    Raises:
        UserError: it cannot be made.
    """
    with explain_os_errors("lock", path):
        file = open(path, "w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except BlockingIOError:
            held = False
        yield held
