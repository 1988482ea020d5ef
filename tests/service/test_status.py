"""A job's state follows from the evidence, whatever part of it is missing."""

from __future__ import annotations

import dataclasses

import pytest

from dathvd.service.engines.base import View
from dathvd.service.record import EngineId, Exit, Job, StopRequest
from dathvd.service.status import (
    SHORTEST_STALL,
    SUBMISSION_SECONDS,
    Evidence,
    Status,
    decide,
    stall_limit,
)

THEN, NOW = 1000.0, 1010.0
JOB = Job(
    uuid="0" * 32,
    engine="slurm",
    num_proc=2,
    arguments=("train",),
    folder="/",
    submitted_at=THEN,
    submitted_by="me",
    host="here",
)
ID = EngineId(id="7", submitted_at=THEN + 1)
STOP = StopRequest(at=1005.0, by="me")


def exit_with(code: int, message: str = "") -> Exit:
    return Exit(code=code, at=1008.0, started_at=1002.0, message=message)


def seen(**fields: object) -> Evidence:
    return dataclasses.replace(Evidence(JOB, engine_id=ID), **fields)  # type: ignore


ROWS: list[tuple[Evidence, str, str]] = [
    # the engine's word
    (seen(view=View("queued", "Priority")), "queued", "Priority"),
    (seen(view=View("running", "on a")), "running", "on a"),
    (seen(view=View("running"), stop=STOP), "running", "asked to stop"),
    # finished needs a result, and an exit code of 0 is none
    (seen(exit=exit_with(0), has_result=True), "finished", ""),
    (seen(exit=exit_with(0)), "failed", "it ended with exit code 0 and left no result"),
    (seen(has_result=True), "finished", ""),
    (seen(has_result=True, view=View("ended", "gone")), "finished", ""),
    (seen(has_result=True, unreachable="no route"), "finished", ""),
    # a run that goes on is not finished by an older result
    (seen(has_result=True, view=View("running")), "running", ""),
    (seen(has_result=True, view=View("queued")), "queued", ""),
    # failures, with their cause
    (seen(exit=exit_with(1, "rank 1: no")), "failed", "rank 1: no"),
    (seen(exit=exit_with(2)), "failed", "exit code 2"),
    (seen(exit=exit_with(137)), "failed", "killed by signal 9"),
    (seen(view=View("ended", "Slurm: node fail")), "failed", "Slurm: node fail"),
    (seen(view=View("ended", code=3)), "failed", "exit code 3"),
    # what the watcher wrote outlives what the engine says late
    (seen(exit=exit_with(1, "no"), view=View("running")), "failed", "no"),
    (seen(exit=exit_with(1, "no"), unreachable="no route"), "failed", "no"),
    # stops
    (seen(exit=exit_with(75), has_checkpoint=True), "stopped", "with a checkpoint"),
    (seen(exit=exit_with(143)), "stopped", "without a checkpoint"),
    (seen(exit=exit_with(130)), "stopped", "without a checkpoint"),
    (seen(exit=exit_with(1), stop=STOP), "stopped", "without a checkpoint"),
    (seen(stop=STOP), "stopped", "without a checkpoint"),
    (seen(stop=STOP, view=View("ended", "x")), "stopped", "without a checkpoint"),
    # silence
    (seen(unreachable="no route"), "unknown", "no route"),
    (
        seen(),
        "lost",
        "slurm no longer knows it, and it left no record of its end",
    ),
    # the three steps of a submission, interrupted after each
    (Evidence(JOB), "queued", "being submitted"),
    (Evidence(JOB, view=View("queued", "Priority")), "queued", "Priority"),
    (Evidence(JOB, view=View("running")), "running", ""),
    (Evidence(JOB, unreachable="no route"), "unknown", "no route"),
    (Evidence(JOB, exit=exit_with(0), has_result=True), "finished", ""),
]


@pytest.mark.parametrize(("evidence", "state", "reason"), ROWS)
def test_the_table(evidence: Evidence, state: str, reason: str) -> None:
    status = decide(evidence, NOW)
    assert (status.state, status.reason) == (state, reason)


def test_a_submission_that_never_arrived_is_lost_after_a_while() -> None:
    late = THEN + SUBMISSION_SECONDS + 1
    assert decide(Evidence(JOB), late) == Status("lost", "slurm never got it", THEN)


def test_other_commands_are_finished_by_their_exit_code() -> None:
    job = JOB.model_copy(update={"arguments": ("evaluate", "run")})
    assert decide(Evidence(job, exit=exit_with(0)), NOW).state == "finished"
    # the run's own result is not theirs
    assert decide(Evidence(job, engine_id=ID, has_result=True), NOW).state == "lost"


def test_a_run_without_rows_for_ten_intervals_is_stalled() -> None:
    every = 20.0
    times = tuple(THEN + every * n for n in range(6))
    running = seen(view=View("running"), row_times=times)
    assert stall_limit(times) == 10 * every
    assert decide(running, times[-1] + 199).state == "running"
    stalled = decide(running, times[-1] + 201)
    assert (stalled.state, stalled.since) == ("stalled", times[-1])
    assert "for 201 s (usual: 20 s)" in stalled.reason
    # a run that was asked to stop saves, and writes no rows meanwhile
    asked = dataclasses.replace(running, stop=STOP)
    assert decide(asked, times[-1] + 201).state == "running"


def test_quick_rows_and_few_rows_are_no_sign_of_a_stall() -> None:
    quick = tuple(THEN + 0.1 * n for n in range(9))
    assert stall_limit(quick) == SHORTEST_STALL
    assert stall_limit(quick[:2]) is None
