"""The processes below the launcher, and how they are told to save or to end."""

from __future__ import annotations

import contextlib
import os
import signal

import psutil

_KILL_AFTER = 3.0  # seconds between SIGTERM and SIGKILL
WORKER = ["-P", "-m", "dathvd.launch.worker"]
"""How a rank's companion is started; -P: imports look not at the current folder."""


def ask_to_save(pid: int) -> None:
    """SIGUSR1 to the ranks: by mpirun, which reaches all hosts, else those here."""
    processes = _tree(pid)
    mpirun = [p for p in processes if _name(p) in ("mpirun", "orterun", "prterun")]
    for process in mpirun or [p for p in processes if _is_worker(p)]:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGUSR1)


def kill_ranks(pid: int) -> None:
    """SIGKILL to the ranks here, below their companions, which tell of it."""
    for companion in filter(_is_worker, _tree(pid)):
        with contextlib.suppress(psutil.Error):
            for rank in companion.children():
                rank.kill()


def end_tree(pid: int) -> None:
    """End a process and all that descend from it: SIGTERM, later SIGKILL."""
    processes = _tree(pid)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
            process.resume()  # one that was stopped would not hear of it
    _, alive = psutil.wait_procs(processes, timeout=_KILL_AFTER)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _name(process: psutil.Process) -> str:
    try:
        return os.path.basename(process.name())
    except psutil.Error:
        return ""


def _is_worker(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[1 : 1 + len(WORKER)] == WORKER
    except psutil.Error:
        return False
