"""A wish to stop: SIGTERM, SIGUSR1, or a launcher that has gone, noted at any time.

A process listens from its first moment on. A thread takes the signals in, because the
main thread may be waiting in a collective, where Python runs no handler. It imports
neither torch nor Horovod.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
import time
from types import FrameType

import psutil

from dathvd.errors import TEMPORARY_FAILURE

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What asks a rank to save and to leave."""
_MPIRUN = {"mpirun", "orterun", "prterun"}


class _State:
    """What the signal handler and the threads share; assignments alone are atomic."""

    listening = False
    asked = False
    saved = False


def listen() -> None:
    """Note signals from now on, also those that came while they were blocked.

    SIGUSR2 prints where each thread is. Only a main thread can call this.
    """
    for number in SIGNALS:
        signal.signal(number, _note)
    _State.saved = False
    if _State.listening:
        return
    _State.listening = True
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_take_signals, args=(read,), daemon=True).start()
    threading.Thread(target=_watch_launcher, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def asked() -> bool:
    """Whether this process was asked to stop."""
    return _State.asked


def ask() -> None:
    """Do as if a signal had come."""
    _State.asked = True
    if _State.saved:
        _leave()


def leave_when_asked() -> None:
    """From now on a wish to stop ends the process at once: all is saved already."""
    _State.saved = True
    if _State.asked:
        _leave()


def ignore_signals() -> None:
    """Let no further signal disturb an exit that is under way."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _leave() -> None:
    """Exit without Python's own end, which a thread cannot begin."""
    os.write(1, b"asked to stop; the same command goes on from here\n")
    os._exit(TEMPORARY_FAILURE)


def _note(number: int, frame: FrameType | None) -> None:
    ask()


def _take_signals(read: int) -> None:
    while numbers := os.read(read, 64):
        if set(numbers) & set(SIGNALS):
            ask()


def _watch_launcher() -> None:
    """Ask to stop when the shell that ``horovodrun --mpi`` becomes has gone.

    It waits for mpirun below it. A signal ends the shell alone, and mpirun would go on
    with nobody there to hear of it. Any other parent may leave mpirun behind on
    purpose, as with ``nohup``.
    """
    with contextlib.suppress(psutil.Error):  # mpirun has gone and ends its ranks itself
        above = [p for p in psutil.Process().parents() if p.name() in _MPIRUN]
        shell = above[0].parent() if above else None
        words = [] if shell is None else shell.cmdline()
        if words[1:2] != ["-c"] or not words[2].startswith("mpirun "):
            return
        while above[0].ppid() == shell.pid:  # type: ignore[union-attr]
            time.sleep(0.5)
        ask()
