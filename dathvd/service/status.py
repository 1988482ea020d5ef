"""A job's state: a pure function of what the engine and the run folder say.

``finished`` needs a result, ``running`` needs the engine's word of just now: a state is
never taken from a database, nor from what was true a while ago.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Literal

from dathvd.errors import TEMPORARY_FAILURE
from dathvd.service.engines.base import View
from dathvd.service.record import EngineId, Exit, Job, StopRequest

State = Literal[
    "queued", "running", "stalled", "finished", "failed", "stopped", "lost", "unknown"
]
ENDED = ("finished", "failed", "stopped", "lost")
"""States that an attempt does not leave by itself."""

SUBMISSION_SECONDS = 120.0
"""How long after ``job.json`` an attempt without an engine's id may still be on its way
to the engine."""
SUBMITTING = "being submitted"
"""Why such an attempt is queued."""
STALLED_INTERVALS = 10.0
"""A run is stalled after so many median intervals without a row of metrics."""
SHORTEST_STALL = 60.0
"""Seconds without a row of metrics that are never a stall."""


@dataclass(frozen=True)
class Evidence:
    """All that decides a job's state.

    Args:
        job: the job, whose ``attempt`` is the newest.
        engine_id: what the engine calls that attempt, if recorded.
        stop: the request to end it, if any.
        exit: how it ended, if its watcher wrote that down.
        has_result: whether ``result.json`` is there.
        has_checkpoint: whether a later attempt could go on from a checkpoint.
        row_times: when the last rows of metrics were written, oldest first, in seconds
            since 1970; those of this attempt.
        view: what the engine says; None if it answered and does not know the attempt.
        unreachable: why the engine did not answer; None if it did.
        unreachable_since: seconds since 1970.
    """

    job: Job
    engine_id: EngineId | None = None
    stop: StopRequest | None = None
    exit: Exit | None = None
    has_result: bool = False
    has_checkpoint: bool = False
    row_times: tuple[float, ...] = ()
    view: View | None = None
    unreachable: str | None = None
    unreachable_since: float | None = None


@dataclass(frozen=True)
class Status:
    """A state, why, and since when."""

    state: State
    reason: str = ""
    since: float | None = None
    """Seconds since 1970; None where nobody wrote that down."""


def decide(seen: Evidence, now: float) -> Status:
    """The job's state at ``now``, in seconds since 1970."""
    if seen.exit is not None:
        return _after_exit(seen, seen.exit)
    if seen.unreachable is not None:
        if seen.has_result and seen.job.command == "train":
            return Status("finished")
        return Status("unknown", seen.unreachable, seen.unreachable_since)
    if seen.view is None:
        return _not_known(seen, now)
    if seen.view.state == "queued":
        since = seen.engine_id.submitted_at if seen.engine_id else None
        return Status("queued", seen.view.reason, since or seen.job.submitted_at)
    if seen.view.state == "running":
        return _running(seen, seen.view, now)
    return _ended(seen, seen.view)


def _after_exit(seen: Evidence, exit: Exit) -> Status:
    """The attempt's watcher wrote down its end, which nothing later can change."""
    if exit.code == 0:
        if seen.has_result or seen.job.command != "train":
            return Status("finished", since=exit.at)
        reason = "it ended with exit code 0 and left no result"
        return Status("failed", reason, exit.at)
    asked = seen.stop is not None or exit.code in (TEMPORARY_FAILURE, 130, 143)
    if asked:
        return Status("stopped", _left(seen), exit.at)
    reason = exit.message or _code(exit.code)
    return Status("failed", reason, exit.at)


def _not_known(seen: Evidence, now: float) -> Status:
    """The engine answered and does not know the attempt, whose end nobody recorded."""
    if seen.has_result and seen.job.command == "train":
        return Status("finished")
    if seen.stop is not None:
        return Status("stopped", _left(seen), seen.stop.at)
    if seen.engine_id is None:
        if now - seen.job.submitted_at < SUBMISSION_SECONDS:
            return Status("queued", SUBMITTING, seen.job.submitted_at)
        return Status("lost", f"{seen.job.engine} never got it", seen.job.submitted_at)
    reason = f"{seen.job.engine} no longer knows it, and it left no record of its end"
    last = seen.row_times[-1] if seen.row_times else seen.engine_id.submitted_at
    return Status("lost", reason, last)


def _running(seen: Evidence, view: View, now: float) -> Status:
    first = seen.row_times[0] if seen.row_times else None
    if seen.stop is not None:
        return Status("running", "asked to stop", seen.stop.at)
    limit = stall_limit(seen.row_times)
    if limit is not None and now - seen.row_times[-1] > limit:
        silent = now - seen.row_times[-1]
        reason = f"no row of metrics for {silent:.0f} s (usual: {limit / 10:.0f} s)"
        return Status("stalled", reason, seen.row_times[-1])
    return Status("running", view.reason, first)


def _ended(seen: Evidence, view: View) -> Status:
    """The engine saw the attempt end, and its watcher could not say how."""
    if seen.has_result and seen.job.command == "train":
        return Status("finished")
    if seen.stop is not None:
        return Status("stopped", _left(seen), seen.stop.at)
    reason = view.reason or (_code(view.code) if view.code is not None else "it ended")
    return Status("failed", reason)


def stall_limit(row_times: tuple[float, ...]) -> float | None:
    """Seconds without a row after which a run is stalled; None before three rows."""
    if len(row_times) < 3:
        return None
    gaps = [b - a for a, b in zip(row_times, row_times[1:])]
    return max(STALLED_INTERVALS * median(gaps), SHORTEST_STALL)


def _left(seen: Evidence) -> str:
    return "with a checkpoint" if seen.has_checkpoint else "without a checkpoint"


def _code(code: int) -> str:
    if code > 128:
        return f"killed by signal {code - 128}"
    return f"exit code {code}"
