"""One rank's companion: ``python -P -m dathvd.launch.worker [OPTIONS] -- train …``.

It runs ``dathvd`` with the given arguments as its child, prefixes the child's output
with the rank, copies it to a log file, tells the launcher how the child ended, and ends
the child when it hangs or the launcher has gone. It imports neither torch nor Horovod.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from dathvd.errors import TEMPORARY_FAILURE
from dathvd.heartbeat import DESCRIPTOR, Pulse
from dathvd.launch.environment import for_rank
from dathvd.launch.output import Output
from dathvd.launch.report import RankEnded, RankStarted
from dathvd.launch.stall import StallWatch, end_stalled, is_stopped
from dathvd.ranks import launched_rank
from dathvd.stop import SIGNALS

_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # loaded before any fork


def run(
    command: Sequence[str],
    logs: Path | None,
    *,
    stall_limit: float = 0.0,
    hold_signals: bool = False,
) -> int:
    """Run the command to its end as this rank; the exit code is the command's.

    A rank that stopped and saved counts as a success here: mpirun would kill the
    others, who may still be saving. The launcher learns of it by the report.

    Args:
        command: What to run.
        logs: Where its output is kept too.
        stall_limit: Seconds that it may be without a step; 0 for no limit.
        hold_signals: Whether the command listens to SIGTERM and SIGUSR1 when it is
            ready to (``dathvd.stop``); until then they are kept for it.
    """
    rank = launched_rank()
    pulse, descriptor = Pulse.create()
    with _log_file(logs, rank) as log:
        output = Output(rank, log)
        child = subprocess.Popen(
            command,
            env={**for_rank(os.environ), DESCRIPTOR: str(descriptor)},
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # signals reach it through this process, and once
            preexec_fn=_hold_signals if hold_signals else _die_with_parent,
        )
        _pass_signals_to(child)
        _tell(RankStarted(rank, socket.gethostname()))
        threads = [
            threading.Thread(target=output.copy, args=pair, daemon=True)
            for pair in (
                (child.stdout, sys.stdout.buffer),
                (child.stderr, sys.stderr.buffer),
            )
        ]
        for thread in threads:
            thread.start()
        _wait(child, StallWatch(pulse, stall_limit), output)
        for thread in threads:
            thread.join(timeout=_GRACE)  # a grandchild may hold the pipe
        return _report_end(child.returncode, rank, output)


def _report_end(returncode: int, rank: int, output: Output) -> int:
    code = returncode if returncode >= 0 else 128 - returncode
    message = output.error or (output.last if code < 128 else "")
    if output.stalled:
        code = 1
    _tell(RankEnded(rank, socket.gethostname(), code, message if code else ""))
    return 0 if code == TEMPORARY_FAILURE else code


def _tell(report: RankStarted | RankEnded) -> None:
    with contextlib.suppress(OSError):
        # one write: mpirun puts its tag into a line that arrives in pieces
        os.write(2, report.to_line().encode() + b"\n")


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


def _hold_signals() -> None:
    """The same; and keep back what asks it to stop until it can listen."""
    _die_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _pass_signals_to(child: subprocess.Popen[bytes]) -> None:
    def forward(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, forward)


def _wait(child: subprocess.Popen[bytes], watch: StallWatch, output: Output) -> None:
    """Wait for the child; end it when it hangs, or when nobody reads any more."""
    ended = os.pidfd_open(child.pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(1, 0)  # only errors: the other end was closed
    looked = time.monotonic()
    try:
        while child.poll() is None:
            for descriptor, event in poll.poll(1000):
                if descriptor == 1 and event & (select.POLLERR | select.POLLHUP):
                    poll.unregister(1)
                    _end(child)
            now = time.monotonic()
            problem = watch.look(now - looked, is_stopped(child.pid))
            looked = now
            if problem is not None:
                end_stalled(child, output, problem, watch)
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
    """``[--logs DIR] [--stall-limit SECONDS] -- ARGUMENTS`` of ``dathvd``."""
    place = list(arguments).index("--")
    words = arguments[place + 1 :]
    parser = argparse.ArgumentParser(prog="dathvd.launch.worker")
    parser.add_argument("--logs", type=Path)
    parser.add_argument("--stall-limit", type=float, default=0.0)
    options = parser.parse_args(arguments[:place])
    return run(
        [sys.executable, "-P", "-m", "dathvd", *words],
        options.logs,
        stall_limit=options.stall_limit,
        hold_signals=words[:1] == ["train"],
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
