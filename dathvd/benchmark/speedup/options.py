"""Options of a sweep, read with a clear line for what is wrong in them."""

from __future__ import annotations

import os

from dathvd.benchmark.speedup.plan import Overlap
from dathvd.errors import UserError, nearest
from dathvd.launch import LaunchOptions
from dathvd.lists import words


def overlap_modes(text: str) -> tuple[Overlap, ...]:
    """``"none,attack"`` as modes.

    Raises:
        UserError: a part is neither.
    """
    modes: list[Overlap] = []
    for part in words(text):
        if part == "none" or part == "attack":
            modes.append("none" if part == "none" else "attack")
        else:
            hint = nearest(part, ["none", "attack"])
            raise UserError(f"--overlap: unknown {part!r} {hint}")
    return tuple(modes)


def threads_per_worker(options: LaunchOptions, on_rig: bool) -> int:
    """CPU threads that every worker can have at the largest size, at least 1."""
    if on_rig:
        return 1
    most = max((host.slots for host in options.hosts), default=options.num_proc)
    return max(1, (os.cpu_count() or 1) // most)
