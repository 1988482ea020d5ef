"""A counter in shared memory by which a rank's companion sees that it gets on.

Without a companion all of this does nothing. It imports neither torch nor Horovod.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterator

DESCRIPTOR = "DATHVD_HEARTBEAT"
"""The environment variable with the number of the inherited file descriptor."""
_STATE = struct.Struct("<QQ")


RESTING, TRAINING, EVALUATING = range(3)
"""What a process is at; each has beats of its own length, a rest may take any time."""


class Pulse:
    """Shared memory with how often a process has beaten and what it is at."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _STATE.size)

    @classmethod
    def create(cls) -> tuple[Pulse, int]:
        """A new one, and the file descriptor by which a child can open it."""
        descriptor = os.memfd_create("heartbeat")
        os.ftruncate(descriptor, _STATE.size)
        return cls(descriptor), descriptor

    def read(self) -> tuple[int, int]:
        """How many beats there were, and what the process is at."""
        beats, phase = _STATE.unpack_from(self._memory)
        return beats, phase

    def beat(self, phase: int) -> None:
        """Count one."""
        _STATE.pack_into(self._memory, 0, self.read()[0] + 1, phase)

    def rest(self) -> None:
        """Expect no beat until the next."""
        _STATE.pack_into(self._memory, 0, self.read()[0], RESTING)


def _inherited() -> Pulse | None:
    number = os.environ.get(DESCRIPTOR, "")
    try:
        return Pulse(int(number)) if number else None
    except (OSError, ValueError):  # a grandchild, which does not hold the descriptor
        return None


_pulse = _inherited()


def has_companion() -> bool:
    """Whether a companion runs this process and reads what it says."""
    return _pulse is not None


def beat(phase: int) -> None:
    """Tell the companion that a step, or a part of an evaluation, is done."""
    if _pulse is not None:
        _pulse.beat(phase)


def rest() -> None:
    """Tell the companion that what follows may take any time."""
    if _pulse is not None:
        _pulse.rest()


@contextlib.contextmanager
def resting() -> Iterator[None]:
    """Rest within the block, as while files are written; then go on as before."""
    phase = RESTING if _pulse is None else _pulse.read()[1]
    rest()
    yield
    if phase != RESTING:
        beat(phase)
