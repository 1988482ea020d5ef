"""One attempt: start the ranks, show what they say, end them all together."""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, BinaryIO

from dathvd.errors import TEMPORARY_FAILURE
from dathvd.launch.keeper import Keeper
from dathvd.launch.report import (
    RankEnded,
    RankStarted,
    first_cause,
    is_chatter,
    read_line,
)
from dathvd.launch.signals import StopSignals
from dathvd.launch.stall import is_stopped
from dathvd.launch.tree import ask_to_save, end_tree, kill_ranks

_SETTLE = 1.0  # seconds for the other failed ranks to be heard of
_END_BY_ITSELF = 4.0
"""Seconds for mpirun or horovodrun to end the ranks after a failure; where a host has
gone, they would wait for it."""
_INTERRUPTED = 5.0  # seconds for the ranks to end after Ctrl-C
_TICK = 0.2


@dataclass
class Outcome:
    """How an attempt ended."""

    code: int
    """The launcher's own exit code."""
    num_proc: int = 1
    """How many ranks there were to be."""
    ends: list[RankEnded] = field(default_factory=list)
    """The ranks' ends, in the order they were heard of."""
    stopped_by: int | None = None
    """The signal that asked for the stop."""
    held: list[bytes] = field(default_factory=list)
    """What was said after the first failure: mostly how the others were ended."""
    frozen: bool = False
    """Whether the launcher itself was ended because it had been stopped too long."""
    made_way: bool = False
    """Whether it was ended for an attempt on other hosts."""

    @property
    def finished(self) -> bool:
        """Whether every rank has said that it came to its end."""
        return len({e.rank for e in self.ends if e.code == 0}) == self.num_proc

    @property
    def saved(self) -> bool:
        """Whether a rank has said that it stopped and saved."""
        return any(end.code == TEMPORARY_FAILURE for end in self.ends)

    @property
    def broken(self) -> bool:
        """Whether ranks that say they saved were ended by a fault, not by a wish.

        The launcher was stopped (SIGSTOP) too long, or a rank went without a word, its
        companion being killed; what ended the others was a signal like any other.
        """
        heard = {end.rank for end in self.ends}
        lost = self.frozen or len(heard) < self.num_proc
        return self.stopped_by is None and not self.made_way and lost

    @property
    def failures(self) -> list[RankEnded]:
        """Ranks that failed, those not counted that stopped and saved.

        Once one has left with its checkpoint, the launcher ends the others.
        """
        failed = [end for end in self.ends if end.code not in (0, TEMPORARY_FAILURE)]
        if self.stopped_by is not None:  # those that did not save in time were ended
            return [end for end in failed if end.code <= 128]
        return failed

    @property
    def cause(self) -> RankEnded | None:
        """The rank that failed first."""
        return first_cause(self.failures) if self.failures else None

    def exit_code(self, checkpoint: bool = False) -> int:
        """The exit code of the job.

        Args:
            checkpoint: Whether the run folder holds a checkpoint to go on from.

        Returns:
            0 only where every rank came to its end; 130 for Ctrl-C; 2 for a user's
            error; 75 for a stop after which the same command goes on; else 1.
        """
        if self.finished:
            return 0
        if self.stopped_by == signal.SIGINT:
            return 130
        if self.cause is not None:
            return 2 if self.cause.code == 2 else 1
        if self.saved or (self.stopped_by is not None and checkpoint):
            return TEMPORARY_FAILURE
        return 1


class Attempt:
    """The running launcher and its ranks."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        num_proc: int,
        grace: float,
        stall_limit: float,
        stop: StopSignals,
        make_way: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start.

        Args:
            command: What starts the ranks.
            environment: Its environment.
            num_proc: How many ranks it starts.
            grace: Seconds that the ranks get to save after SIGTERM or SIGUSR1.
            stall_limit: Seconds that the launcher may be stopped (SIGSTOP) before it
                is ended; 0 is no limit.
            stop: The signals that this process gets.
            make_way: Says whether the ranks are to save and leave for an attempt on
                other hosts.
        """
        self._grace = grace
        self._stall_limit = stall_limit
        self._frozen_for = 0.0
        self._stop = stop
        self._make_way = make_way
        self._handled = 0
        self._outcome = Outcome(code=0, num_proc=num_proc)
        self._started: set[int] = set()
        self._to_be_asked = False
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
        open_streams, looked = 2, time.monotonic()
        while open_streams:
            try:
                item = self._lines.get(timeout=_TICK)
            except queue.Empty:
                item = (b"", sys.stdout.buffer)
            if item is None:
                open_streams -= 1
            elif item[0]:
                self._take(*item)
            self._watch_signals()
            now = time.monotonic()
            self._watch_clock(now - looked)
            looked = now
        self._outcome.code = self._process.wait()
        self._keeper.dismiss()
        return self._outcome

    def _take(self, line: bytes, target: BinaryIO) -> None:
        if is_chatter(line):
            return
        said = read_line(line)
        if isinstance(said, RankStarted):
            self._started.add(said.rank)
        elif isinstance(said, RankEnded):
            self._outcome.ends.append(said)
            if said.code == TEMPORARY_FAILURE:
                self._end_within(self._grace)  # the others leave after the same step
            elif said.code:
                self._end_within(_SETTLE + _END_BY_ITSELF)
                if said.code > 128 and not self._may_save():
                    # the others can only wait for it, and mpirun would wait for them
                    kill_ranks(self._process.pid)
        elif self._outcome.failures or self._outcome.stopped_by is not None:
            self._outcome.held.append(said)
        else:
            with contextlib.suppress(OSError):
                target.write(said)
                target.flush()

    def _may_save(self) -> bool:
        """Whether ranks were asked to save and to leave."""
        return self._outcome.stopped_by is not None or self._outcome.made_way

    def _end_within(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._deadline = min(deadline, self._deadline or deadline)

    def _watch_signals(self) -> None:
        """Ask the ranks to save, once they can hear it; a second Ctrl-C ends them."""
        for number in self._stop.numbers[self._handled :]:
            self._handled += 1
            again = self._outcome.stopped_by is not None
            self._outcome.stopped_by = self._outcome.stopped_by or number
            self._to_be_asked = True
            interrupt = number == signal.SIGINT
            self._end_within(
                0 if again and interrupt else _INTERRUPTED if interrupt else self._grace
            )
        if not self._outcome.made_way and self._make_way():
            self._outcome.made_way = self._to_be_asked = True
            self._end_within(self._grace)
        if self._to_be_asked and len(self._started) == self._outcome.num_proc:
            self._to_be_asked = False
            ask_to_save(self._process.pid)

    def _watch_clock(self, seconds: float) -> None:
        """End what is over its time.

        Args:
            seconds: Since the last look; little of it counts where this process was
                stopped itself, as when a whole job is suspended.
        """
        if self._deadline is not None and time.monotonic() > self._deadline:
            end_tree(self._process.pid)
            self._deadline = None
        frozen = self._stall_limit > 0 and is_stopped(self._process.pid)
        self._frozen_for = self._frozen_for + min(seconds, 1.0) if frozen else 0.0
        if self._frozen_for > self._stall_limit > 0:
            self._outcome.frozen = True
            end_tree(self._process.pid)
            self._frozen_for = 0.0
