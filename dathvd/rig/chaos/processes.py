"""Which processes run for a job, and what they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil

from dathvd.launch.tree import WORKER


def running(mark: str, others: Iterable[int]) -> list[psutil.Process]:
    """The processes with a mark in their environment, and those others that run."""
    wanted, found = set(others), []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if pid in wanted or mark.encode() in words:
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
    return found


def words_of(process: psutil.Process) -> str:
    """Its command line; a question mark where it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return "?"


def kind_of(process: psutil.Process) -> str:
    """Rank, companion, mpirun, keeper, launcher or other."""
    words = process.cmdline()
    if process.name() == "mpirun":
        return "mpirun"
    if words[1 : 1 + len(WORKER)] == WORKER:
        return "companion"
    if "dathvd.launch.keeper" in words:
        return "keeper"
    if words[2:4] == ["-m", "dathvd"]:
        return "launcher" if words[4:5] == ["launch"] else "rank"
    return "other"
