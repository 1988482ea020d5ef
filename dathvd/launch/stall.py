"""Whether a rank still gets on, as its companion sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field

import psutil

from dathvd.heartbeat import RESTING, Pulse
from dathvd.launch.output import Output

_TIMES = 20
"""How many of the longest steps so far a step may take."""
_MEASURED = 2
"""Steps that are measured before there is a limit."""
_LONGEST_TICK = 2.0
"""Seconds that count at most between two looks: this process may have been suspended
together with the rank."""
_PATIENCE = 10.0
"""More seconds, the limit at most, for a rank that waits for others: the one that hangs
is to be named."""
_LEAST_PATIENCE = 3.0
"""Seconds for that at least: companions look once a second."""
_DUMP = 3.0  # seconds for the stack to arrive, also on a busy host
_WHOLE = 0.3  # seconds without another line of it, after which it is all there


@dataclass
class StallWatch:
    """Measures steps and notes when one takes too long.

    Args:
        pulse: what the rank beats.
        limit: seconds that any step may take; 0 for no limit at all.
    """

    pulse: Pulse
    limit: float
    _beats: int = 0
    _phase: int = RESTING
    _idle: float = 0.0
    _stopped: float = 0.0
    _longest: dict[int, float] = field(default_factory=dict)
    _measured: dict[int, int] = field(default_factory=dict)

    def look(self, seconds: float, stopped: bool) -> str | None:
        """What is wrong, in words, if anything.

        Args:
            seconds: since the last look.
            stopped: whether the rank is stopped (SIGSTOP).
        """
        if self.limit <= 0:
            return None
        seconds = min(seconds, _LONGEST_TICK)
        self._stopped = self._stopped + seconds if stopped else 0.0
        if self._stopped > self.limit:
            return f"stopped by a signal (SIGSTOP) for {self._stopped:.0f} s"
        beats, phase = self.pulse.read()
        if phase == RESTING:
            self._idle = 0.0
        elif beats != self._beats or phase != self._phase:
            # the first beat after a rest ends no step
            steps = beats - self._beats - (phase != self._phase)
            if steps > 0:
                taken = (self._idle + seconds) / steps
                self._longest[phase] = max(taken, self._longest.get(phase, 0.0))
                self._measured[phase] = self._measured.get(phase, 0) + steps
            self._idle = 0.0
        else:
            self._idle += seconds
        self._beats, self._phase = beats, phase
        if self._measured.get(phase, 0) < _MEASURED or phase == RESTING:
            return None
        if self._idle > max(self.limit, _TIMES * self._longest[phase]):
            return f"no step for {self._idle:.0f} s"
        return None


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def end_stalled(
    child: subprocess.Popen[bytes], output: Output, problem: str, watch: StallWatch
) -> None:
    """Print the rank's stack, see who is to blame, and kill it.

    A rank that waits for others waits a little longer before it is ended: the rank that
    hangs is heard of first, or all go on after all.
    """
    pulse, patience = watch.pulse, max(_LEAST_PATIENCE, min(_PATIENCE, watch.limit))
    before = pulse.read()
    if not is_stopped(child.pid):
        frames = _dumped_frames(child, output)
        if any("/horovod/" in frame for frame in frames[:4]):
            problem += ", waiting for the other ranks"
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(patience)
            if child.poll() is not None or pulse.read() != before:
                return
        elif frames:
            problem += f", at {frames[0]}"
    output.stalled = True
    output.error = f"{problem}; ended by its companion"
    child.kill()
    child.wait()  # else it would be looked at, and found to hang, once more


def _dumped_frames(child: subprocess.Popen[bytes], output: Output) -> list[str]:
    """Have the rank print its stack, and take the main thread's frames from it."""
    output.frames.clear()
    os.kill(child.pid, signal.SIGUSR2)
    deadline, seen, since = time.monotonic() + _DUMP, 0, time.monotonic()
    while (now := time.monotonic()) < deadline and not (seen and now > since + _WHOLE):
        time.sleep(0.02)
        if len(output.frames) != seen:
            seen, since = len(output.frames), now
    return list(output.frames)
