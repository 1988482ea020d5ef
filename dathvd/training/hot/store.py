"""The files of hot states in a host's memory (``/dev/shm``)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import stat
import time
from dataclasses import dataclass
from pathlib import Path

MEMORY = Path("/dev/shm")
SHARED = "shared"
"""The name of the part that is equal on all ranks; others are called by their rank."""
_KEPT = 2  # the newest may not be whole yet
_STALE = 6 * 3600.0
"""Seconds after which what another run left in memory is removed."""
_NAME = re.compile(r"step-(\d+)-of-(\d+)-attempt-(\d+)")
_DIGEST = 32


@dataclass(frozen=True, order=True)
class Moment:
    """Which state it is."""

    step: int
    size: int
    """Workers that it is of."""
    attempt: int
    """Number of the attempt in the run's history."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"step-{self.step}-of-{self.size}-attempt-{self.attempt}"

    @property
    def ranks(self) -> list[str]:
        """The names of its ranks' parts."""
        return [str(rank) for rank in range(self.size)]

    @property
    def parts(self) -> set[str]:
        """What it consists of."""
        return {SHARED, *self.ranks}


class Store:
    """One run's hot states on this host.

    Args:
        run_id: of the run; a folder that was removed and made anew has another.
        memory: a file system in memory.

    Raises:
        OSError: it cannot be made, or another user has made it.
    """

    def __init__(self, run_id: str, memory: Path = MEMORY) -> None:
        top = memory / f"dathvd-{os.geteuid()}"
        _make_own(top)
        _remove_stale(top)
        # hosts of a rig, and containers of one pod, may share a memory
        self._folder = top / f"{run_id}.{socket.gethostname()}"
        _make_own(self._folder)

    def write(self, moment: Moment, part: str, data: bytes) -> None:
        """Keep a part; it is there whole or not at all."""
        folder = self._folder / moment.name
        folder.mkdir(mode=0o700, exist_ok=True)
        draft = folder / f".{part}"
        with draft.open("wb") as file:
            file.write(hashlib.sha256(data).digest())
            file.write(data)
        draft.rename(folder / part)

    def moments(self) -> dict[Moment, set[str]]:
        """The parts that are here, by the state that they are of; not yet verified."""
        found = {}
        for folder in self._folder.iterdir():
            if match := _NAME.fullmatch(folder.name):
                moment = Moment(*map(int, match.groups()))
                found[moment] = {file.name for file in folder.iterdir()} & moment.parts
        return found

    def read(self, moment: Moment, part: str) -> bytes | None:
        """A part; None where it is not here or not what was written."""
        try:
            data = (self._folder / moment.name / part).read_bytes()
        except OSError:
            return None
        digest, data = data[:_DIGEST], data[_DIGEST:]
        return data if hashlib.sha256(data).digest() == digest else None

    def prune(self) -> None:
        """Remove all but the newest."""
        for moment in sorted(self.moments(), key=_age)[:-_KEPT]:
            shutil.rmtree(self._folder / moment.name, ignore_errors=True)

    def forget(self) -> None:
        """Remove all."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            _make_own(self._folder)

    def close(self) -> None:
        """Remove all, for good."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _age(moment: Moment) -> tuple[int, int]:
    return moment.attempt, moment.step


def _make_own(folder: Path) -> None:
    """A folder that nobody else can read or write, or could have planted."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError(f"{folder} is not this user's folder")
    folder.chmod(0o700)


def _remove_stale(top: Path) -> None:
    """Free the memory of runs that did not go on."""
    for folder in top.iterdir():
        with contextlib.suppress(OSError):
            newest = max(each.stat().st_mtime for each in (folder, *folder.iterdir()))
            if time.time() - newest > _STALE:
                shutil.rmtree(folder, ignore_errors=True)
