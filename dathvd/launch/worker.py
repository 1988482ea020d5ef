"""One rank's companion: ``python -m dathvd.launch.worker [--logs DIR] -- train …``.

It runs ``dathvd`` with the given arguments as its child, prefixes the child's output
with the rank, copies it to a log file, tells the launcher how the child ended, and ends
the child when the launcher has gone. It imports neither torch nor Horovod.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import IO, BinaryIO

from dathvd.errors import TEMPORARY_FAILURE
from dathvd.launch.report import RankEnded, error_text
from dathvd.ranks import launched_rank

_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # loaded before any fork


class Output:
    """Where the lines of both streams go, one whole line at a time."""

    def __init__(self, rank: int, log: BinaryIO | None) -> None:
        self._prefix = f"[{rank}] ".encode()
        self._log = log
        self._lock = threading.Lock()
        self.error = ""
        self.last = ""

    def copy(self, source: IO[bytes], target: BinaryIO) -> None:
        """Forward a stream to its end."""
        for line in iter(source.readline, b""):
            self.write(line, target)

    def write(self, line: bytes, target: BinaryIO) -> None:
        """Log a line and forward it, unless it is the error that the report carries."""
        line = line if line.endswith(b"\n") else line + b"\n"
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._log is not None:
                self._log.write(line)
            text = line.decode(errors="replace").strip()
            error = error_text(text)
            if error is not None:
                self.error = error
                return
            if target is sys.stderr.buffer and text:
                self.last = text
            target.write(self._prefix + line)
            target.flush()


def run(command: Sequence[str], logs: Path | None) -> int:
    """Run the command to its end as this rank; the exit code is the command's.

    A rank that stopped and saved counts as a success here: mpirun would kill the
    others, who may still be saving. The launcher learns of it by the report.
    """
    rank = launched_rank()
    with _log_file(logs, rank) as log:
        output = Output(rank, log)
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # signals reach it through this process, and once
            preexec_fn=_die_with_parent,
        )
        _pass_signals_to(child)
        threads = [
            threading.Thread(target=output.copy, args=pair, daemon=True)
            for pair in (
                (child.stdout, sys.stdout.buffer),
                (child.stderr, sys.stderr.buffer),
            )
        ]
        for thread in threads:
            thread.start()
        _wait(child)
        for thread in threads:
            thread.join(timeout=_GRACE)  # a grandchild may hold the pipe
        code = child.returncode if child.returncode >= 0 else 128 - child.returncode
        if code:
            message = output.error or (output.last if code < 128 else "")
            end = RankEnded(rank, socket.gethostname(), code, message)
            with contextlib.suppress(OSError):
                # one write: mpirun puts its tag into a line that arrives in pieces
                os.write(2, end.to_line().encode() + b"\n")
    return 0 if code == TEMPORARY_FAILURE else code


@contextlib.contextmanager
def _log_file(logs: Path | None, rank: int) -> Iterator[BinaryIO | None]:
    """``rank-000.log``, appended to; none where it cannot be written."""
    log = None
    if logs is not None:
        # a folder that cannot be written is for the command to report
        with contextlib.suppress(OSError):
            logs.mkdir(parents=True, exist_ok=True)
            log = open(logs / f"rank-{rank:03d}.log", "ab", buffering=0)
            started = datetime.now().isoformat(timespec="seconds")
            log.write(f"--- {started} on {socket.gethostname()}\n".encode())
    try:
        yield log
    finally:
        if log is not None:
            log.close()


def _die_with_parent() -> None:
    """In the child: be killed when this process is, so that no rank is left over."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _pass_signals_to(child: subprocess.Popen[bytes]) -> None:
    def forward(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, forward)


def _wait(child: subprocess.Popen[bytes]) -> None:
    """Wait for the child; end it when nobody reads this process's output any more."""
    ended = os.pidfd_open(child.pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(1, 0)  # only errors: the other end was closed
    try:
        while child.poll() is None:
            for descriptor, event in poll.poll(1000):
                if descriptor == 1 and event & (select.POLLERR | select.POLLHUP):
                    poll.unregister(1)
                    _end(child)
    finally:
        os.close(ended)
    child.wait()


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_GRACE)
    except subprocess.TimeoutExpired:
        child.kill()


def main(arguments: Sequence[str]) -> int:
    """``[--logs DIR] -- ARGUMENTS`` of ``dathvd``."""
    options, words = list(arguments), []
    if "--" in options:
        place = options.index("--")
        options, words = options[:place], options[place + 1 :]
    logs = Path(options[1]) if options[:1] == ["--logs"] else None
    return run([sys.executable, "-m", "dathvd", *words], logs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
