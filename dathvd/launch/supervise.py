"""One attempt: start the ranks, show what they say, end them all together."""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import IO, BinaryIO

from dathvd.errors import TEMPORARY_FAILURE
from dathvd.launch.keeper import Keeper
from dathvd.launch.report import RankEnded, first_cause, read_line
from dathvd.launch.tree import ask_to_save, end_tree

_SETTLE = 1.0  # seconds for the other failed ranks to be heard of
_END_BY_ITSELF = (
    8.0  # seconds for mpirun or horovodrun to end the ranks after a failure
)


@dataclass
class Outcome:
    """How an attempt ended."""

    code: int
    """The launcher's own exit code."""
    ends: list[RankEnded] = field(default_factory=list)
    """The ranks that did not end well, in the order they were heard of."""
    stopped_by: int | None = None
    """The signal that asked for the stop."""
    held: list[bytes] = field(default_factory=list)
    """What was said after the first failure: mostly how the others were ended."""

    @property
    def failures(self) -> list[RankEnded]:
        """Ranks that failed, those not counted that stopped and saved.

        Once one has left with its checkpoint, the launcher ends the others.
        """
        failed = [end for end in self.ends if end.code != TEMPORARY_FAILURE]
        if self.stopped_by is not None and len(failed) < len(self.ends):
            return [end for end in failed if end.code <= 128]
        return failed

    @property
    def cause(self) -> RankEnded | None:
        """The rank that failed first."""
        return first_cause(self.failures) if self.failures else None

    @property
    def exit_code(self) -> int:
        """0, 2 for a user's error, 75 for stopped and saved, 130 for Ctrl-C, else 1."""
        if self.stopped_by == signal.SIGINT:
            return 130
        if self.cause is not None:
            return 2 if self.cause.code == 2 else 1
        if self.ends:
            return TEMPORARY_FAILURE
        return 1 if self.code else 0


class Attempt:
    """The running launcher and its ranks."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, grace: float
    ) -> None:
        """Start.

        Args:
            command: What starts the ranks.
            environment: Its environment.
            grace: Seconds that the ranks get to save after SIGTERM or SIGUSR1.
        """
        self._grace = grace
        self._outcome = Outcome(code=0)
        self._deadline: float | None = None
        self._lines: queue.SimpleQueue[tuple[bytes, BinaryIO] | None] = (
            queue.SimpleQueue()
        )
        self._process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C reaches this process alone
        )
        self._keeper = Keeper(self._process.pid)
        for source, target in (
            (self._process.stdout, sys.stdout.buffer),
            (self._process.stderr, sys.stderr.buffer),
        ):
            threading.Thread(
                target=self._read, args=(source, target), daemon=True
            ).start()

    def _read(self, source: IO[bytes], target: BinaryIO) -> None:
        for line in iter(source.readline, b""):
            self._lines.put((line, target))
        self._lines.put(None)

    def wait(self) -> Outcome:
        """Show the output until all has ended."""
        open_streams = 2
        with self._handle_signals():
            while open_streams:
                try:
                    item = self._lines.get(timeout=0.2)
                except queue.Empty:
                    item = (b"", sys.stdout.buffer)
                if item is None:
                    open_streams -= 1
                elif item[0]:
                    self._take(*item)
                self._watch_clock()
            self._outcome.code = self._process.wait()
            self._keeper.dismiss()
        return self._outcome

    def _take(self, line: bytes, target: BinaryIO) -> None:
        said = read_line(line)
        if isinstance(said, RankEnded):
            self._outcome.ends.append(said)
            if said.code != TEMPORARY_FAILURE and self._deadline is None:
                self._end_within(_SETTLE + _END_BY_ITSELF)
        elif self._outcome.failures or self._outcome.stopped_by is not None:
            self._outcome.held.append(said)
        else:
            with contextlib.suppress(OSError):
                target.write(said)
                target.flush()

    def _end_within(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._deadline = min(deadline, self._deadline or deadline)

    def _watch_clock(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            end_tree(self._process.pid)
            self._deadline = None

    @contextlib.contextmanager
    def _handle_signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            again = self._outcome.stopped_by is not None
            self._outcome.stopped_by = self._outcome.stopped_by or number
            ask_to_save(self._process.pid)
            interrupt = number == signal.SIGINT
            self._end_within(
                0 if again and interrupt else 5 if interrupt else self._grace
            )

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
