"""Folders on a disk that several hosts share, such as NFS.

What a host remembers of such a folder may be a minute old: a name may stand, there, for
what another host has since given another name, and removing what it stands for would
remove that. A rename is carried out by the server, which goes by the names of now. So
a folder is renamed before it is removed, to a name that was never used before and that
no host can remember anything of.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path

_DOOMED, _REPLACED = "removed", "replaced"
_LEFT = re.compile(r"\.(.+)\.[0-9a-f]{16}\.(?:removed|replaced)")


def new_id() -> str:
    """A part of a name that was never used before: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def _aside(folder: Path, why: str) -> Path:
    return folder.with_name(f".{folder.name}.{new_id()}.{why}")


def remove(folder: Path) -> None:
    """Remove what has that name on the server, if anything has; errors are ignored."""
    doomed = _aside(folder, _DOOMED)
    with contextlib.suppress(OSError):
        os.rename(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def put_in_place(new: Path, folder: Path) -> None:
    """Rename ``new`` to ``folder``; what had that name is removed afterwards.

    Raises:
        OSError: ``new`` is not there or cannot be renamed; what had the name keeps it.
    """
    try:
        os.rename(new, folder)  # the server refuses where a full folder has the name
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    older = _aside(folder, _REPLACED)
    os.rename(folder, older)
    try:
        os.rename(new, folder)
    except OSError:
        os.rename(older, folder)
        raise
    shutil.rmtree(older, ignore_errors=True)


def tidy(parent: Path) -> None:
    """Remove what a process left that was killed while it removed or replaced.

    A folder whose successor was not yet in place gets its name back.
    """
    for left in _listed(parent):
        match = _LEFT.fullmatch(left.name)
        if match is None:
            continue
        if left.name.endswith(_REPLACED):
            with contextlib.suppress(OSError):
                os.rename(left, left.with_name(match[1]))
                continue
        remove(left)


def _listed(parent: Path) -> list[Path]:
    try:
        return sorted(parent.iterdir())
    except OSError:
        return []


def refresh(folder: Path) -> None:
    """Have this host forget what it remembers of a folder's names, where it can.

    A client of NFS looks anew at a folder that it has changed itself, once it finds
    that others have changed it too. Where nothing can be written this does nothing.
    """
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(prefix=".look.", dir=folder)
        os.close(handle)
        os.unlink(name)
