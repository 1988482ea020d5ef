"""The queue of one machine: a ticket for each attempt, and slots; both are file locks.

A lock of the kernel (``flock``) is gone when its last holder is: a supervisor or a
machine that dies leaves nothing that looks alive, and a process id that is used again
deceives nobody. The files lie on a disk of this machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from dathvd.errors import UserError
from dathvd.files import explain_os_errors, make_folder, write_text

Phase = Literal["held", "waiting", "started"]


@dataclass(frozen=True)
class Ticket:
    """One attempt in the queue."""

    name: str
    """The attempt's name, ``Job.name``."""
    number: int
    """Its place in the order: smaller ones come first."""
    run: str
    attempt: int
    num_proc: int
    phase: Phase = "waiting"
    """held: it waits for another run, and others may pass it; waiting: for slots;
    started: its command has been started, once and for all."""


class Queue:
    """The tickets and slots in one folder.

    Args:
        folder: on a disk of this machine; it is made where it is missing, for this user
            alone.

    Raises:
        UserError: the folder is another user's or cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_folder(folder.parent)
        with explain_os_errors("create folder", folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            seen = folder.lstat()
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid():
            raise UserError(
                f"queue {folder}: it is not a folder of this user; name another with "
                "DATHVD_STATE"
            )
        for name in ("tickets", "locks", "slots"):
            make_folder(folder / name)

    @contextlib.contextmanager
    def mutex(self) -> Iterator[None]:
        """Hold the queue: no other process changes it meanwhile."""
        with (self._folder / "mutex").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def add(
        self, name: str, run: Path, attempt: int, num_proc: int, phase: Phase
    ) -> Ticket:
        """A ticket at the end of the queue; the one of that name if there is one."""
        with self.mutex():
            there = self.get(name)
            if there is not None:
                return there
            last = max((ticket.number for ticket in self.tickets()), default=0)
            number = max(time.time_ns(), last + 1)
            ticket = Ticket(name, number, str(run), attempt, num_proc, phase)
            self.put(ticket)
            return ticket

    def put(self, ticket: Ticket) -> None:
        """Write a ticket."""
        write_text(self._ticket(ticket.name), json.dumps(asdict(ticket)) + "\n")

    def get(self, name: str) -> Ticket | None:
        """The ticket of that name."""
        try:
            text = self._ticket(name).read_text(encoding="utf-8")
            return Ticket(**json.loads(text))
        except (OSError, ValueError, TypeError):
            return None

    def tickets(self) -> list[Ticket]:
        """All tickets, in the order of the queue."""
        names = [path.stem for path in (self._folder / "tickets").glob("*.json")]
        found = [ticket for name in names if (ticket := self.get(name)) is not None]
        return sorted(found, key=lambda ticket: ticket.number)

    def enter(self, ticket: Ticket, phase: Phase) -> Ticket:
        """The ticket in its next phase, written."""
        changed = replace(ticket, phase=phase)
        self.put(changed)
        return changed

    def remove(self, name: str) -> None:
        """Take a ticket out of the queue, with its lock."""
        for path in (self._ticket(name), self._lock(name)):
            path.unlink(missing_ok=True)

    def hold(self, name: str, patience: float = 2.0) -> int | None:
        """Lock a ticket; the descriptor, or None where another process holds it.

        Whoever only looks (``is_held``) holds it for a moment: hence the ``patience``,
        in seconds.
        """
        limit = time.monotonic() + patience
        while (descriptor := _try_lock(self._lock(name), fcntl.LOCK_EX)) is None:
            if time.monotonic() > limit:
                return None
            time.sleep(0.05)
        return descriptor

    def is_held(self, name: str) -> bool:
        """Whether a process holds the ticket."""
        descriptor = _try_lock(self._lock(name), fcntl.LOCK_SH)
        if descriptor is None:
            return True
        os.close(descriptor)
        return False

    def take_slots(self, count: int, total: int) -> list[int] | None:
        """Lock ``count`` of ``total`` slots; None where fewer are free.

        Returns:
            The descriptors, which free the slots when their last copy is closed.
        """
        taken: list[int] = []
        for index in range(total):
            descriptor = _try_lock(self._folder / "slots" / str(index), fcntl.LOCK_EX)
            if descriptor is not None:
                taken.append(descriptor)
            if len(taken) == count:
                return taken
        for descriptor in taken:
            os.close(descriptor)
        return None

    def _ticket(self, name: str) -> Path:
        return self._folder / "tickets" / f"{name}.json"

    def _lock(self, name: str) -> Path:
        return self._folder / "locks" / name


def _try_lock(path: Path, kind: int) -> int | None:
    """Lock a file without waiting; the descriptor, which commands may inherit."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def queue_folder() -> Path:
    """``$DATHVD_STATE``, else this user's in /var/tmp, which outlives a boot."""
    named = os.environ.get("DATHVD_STATE")
    return Path(named) if named else Path("/var/tmp") / f"dathvd-{os.getuid()}"


def num_slots() -> int:
    """``$DATHVD_SLOTS``, else the GPUs of this machine, else its cores.

    Raises:
        UserError: the variable is not a whole number of at least 1.
    """
    named = os.environ.get("DATHVD_SLOTS")
    if named is not None:
        if not named.isdecimal() or int(named) < 1:
            raise UserError(f"DATHVD_SLOTS: expected a whole number, got {named!r}")
        return int(named)
    gpus = Path("/proc/driver/nvidia/gpus")
    count = len(list(gpus.iterdir())) if gpus.is_dir() else 0
    return count or len(os.sched_getaffinity(0))
