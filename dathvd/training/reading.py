"""Files of a checkpoint that rank 0 sees, and that another host may see later.

Rank 0 decides which checkpoint is read. Where hosts share a disk whose clients keep
what they have once seen (NFS does, for up to a minute by default), another rank may not
find a file yet, or may find an older one of that name. It waits for the one that rank 0
sees, rather than calling the checkpoint damaged.
"""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dathvd import checkpoint, shared_disk
from dathvd.errors import MachineFault, UserError
from dathvd.files import explain_os_errors
from dathvd.runtime import Runtime, from_root, together
from dathvd.training.state import Saved

PATIENCE = 100.0
"""Seconds that a host is given to see what another has written: NFS looks anew at a
folder after a minute at the latest, unless it is mounted with other limits."""
_EVERY = 0.5


@dataclass(frozen=True)
class Seen:
    """A checkpoint as rank 0 sees it."""

    sizes: dict[str, int]
    """Bytes of each file, by its name."""
    state_id: str | None
    """What all files name; None in checkpoints of earlier versions."""

    def is_other(self, file: Path) -> bool:
        """Whether a file is not what rank 0 sees by that name; never for a file that
        rank 0 does not see, as on another disk."""
        if file.name not in self.sizes:
            return False
        try:
            return file.stat().st_size != self.sizes[file.name]
        except OSError:
            return True


def what_root_sees(runtime: Runtime, folder: Path, shared: dict[str, Any]) -> Seen:
    """Rank 0's view of a checkpoint, on every rank.

    Args:
        runtime: this worker's place.
        folder: of the checkpoint.
        shared: what ``model.pt`` holds.
    """

    def look() -> dict[str, int]:
        if not runtime.is_root:
            return {}
        with explain_os_errors("read", folder):
            return {file.name: file.stat().st_size for file in folder.iterdir()}

    sizes = from_root(runtime, together(runtime, look))
    return Seen(sizes, shared.get(checkpoint.STATE_ID))


def read_part(folder: Path, rank: int, seen: Seen) -> Saved:
    """What a rank alone had saved.

    Raises:
        UserError: it cannot be read, is damaged or belongs to another checkpoint.
        MachineFault: this host still does not see what rank 0 sees.
    """
    file = folder / f"rank-{rank:05d}.pt"
    deadline = time.monotonic() + PATIENCE
    while True:
        problem = None
        try:
            part = checkpoint.load_file(file)
            if part.get(checkpoint.STATE_ID) == seen.state_id:
                return part
        except UserError as error:
            problem = error
        waits = seen.is_other(file) or (problem is None and file.name in seen.sizes)
        if not waits:
            raise problem or checkpoint.Unreadable(
                f"checkpoint {file}: of another state than its model.pt"
            )
        if time.monotonic() > deadline:
            raise MachineFault(
                f"checkpoint {file}: this host does not see what rank 0 sees, after "
                f"{PATIENCE:.0f} seconds; do both mount the same disk?"
            )
        _look_again(folder)


def load_whole(file: Path, patience: float) -> dict[str, Any]:
    """Read ``model.pt`` and the parts that other hosts wrote of it.

    Args:
        file: the ``model.pt``, in a folder that is listed.
        patience: seconds to wait for a file that is not there.

    Raises:
        UserError: a file is not there by then, or is damaged.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return checkpoint.load_whole(file)
        except UserError as error:
            hidden = _is_hidden(error) and file.parent.is_dir()
            if not hidden or time.monotonic() > deadline:
                raise
        _look_again(file.parent)


def _is_hidden(error: UserError) -> bool:
    """Whether a file was not found, where a cache may be the reason."""
    cause = error.__context__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOENT, errno.ESTALE)


def _look_again(folder: Path) -> None:
    time.sleep(_EVERY)
    shared_disk.refresh(folder.parent)
    shared_disk.refresh(folder)
