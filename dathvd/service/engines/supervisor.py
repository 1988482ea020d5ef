"""The supervisor of one attempt in this machine's queue.

    python -m dathvd.service.engines.supervisor TICKET SLOTS LOCK

It waits for its turn and for enough slots, runs the attempt, and records its end. It is
given the ticket's lock by who starts it: a ticket has one supervisor. An attempt is
started at most once: the ticket says ``started`` before its command is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from dathvd.errors import UserError
from dathvd.service import record
from dathvd.service.attempt import POLL_SECONDS, launch_command, run_attempt
from dathvd.service.engines.local import supervise
from dathvd.service.engines.tickets import Queue, Ticket, queue_folder

_STOPPED = 143
"""Exit code of an attempt that was stopped before it started, as after SIGTERM."""


def main() -> None:
    """Supervise the ticket's attempt to its end."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    name, slots, lock = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.set_inheritable(lock, False)  # not for whatever this process starts
    queue = Queue(queue_folder())
    ticket = queue.get(name)
    if ticket is None or ticket.phase == "started":
        return
    run = Path(ticket.run)
    job = record.read_job(run)
    if job is None or job.name != name:
        queue.remove(name)
        return
    taken = _wait_for_turn(queue, ticket, job, slots)
    if taken is not None:
        environment = {k: v for k, v in os.environ.items() if k != "DATHVD_STATE"}
        # the slots and the ticket stay locked until the last process has gone
        run_attempt(
            run,
            job.attempt,
            launch_command(run, job),
            environment,
            folder=job.folder,
            keep_open=[lock, *taken],
        )
    with queue.mutex():
        queue.remove(name)


def _wait_for_turn(
    queue: Queue, ticket: Ticket, job: record.Job, slots: int
) -> list[int] | None:
    """The slots' locks; None where the attempt ended before it started."""
    run, began = Path(ticket.run), time.time()
    while True:
        with contextlib.suppress(UserError):  # a disk that is away for a while
            if record.read_stop(run, job.attempt) is not None:
                _record_end(run, job, began, _STOPPED, "")
                return None
        if ticket.phase == "held":
            problem = _problem_of_predecessor(job)
            if problem is not None:
                _record_end(run, job, began, 1, problem)
                return None
            if _is_finished(job):
                with queue.mutex():
                    ticket = queue.enter(ticket, "waiting")
        if ticket.phase == "waiting":
            taken = _try_to_start(queue, ticket, slots)
            if taken is not None:
                return taken
        time.sleep(POLL_SECONDS)


def _try_to_start(queue: Queue, ticket: Ticket, slots: int) -> list[int] | None:
    """Lock the slots if this ticket is the first that waits, and say it started."""
    with queue.mutex():
        waiting = [t for t in queue.tickets() if t.phase == "waiting"]
        if waiting[0].name != ticket.name:
            if not queue.is_held(waiting[0].name):
                supervise(waiting[0], slots)  # its own supervisor was killed
            return None
        taken = queue.take_slots(ticket.num_proc, slots)
        if taken is not None:
            queue.enter(ticket, "started")
        return taken


def _is_finished(job: record.Job) -> bool:
    from dathvd.service.observe import observe

    return job.after is not None and observe(Path(job.after)).state == "finished"


def _problem_of_predecessor(job: record.Job) -> str | None:
    """Why the run that this job waits for will never be finished; None if it may."""
    from dathvd.service.observe import observe
    from dathvd.service.status import ENDED

    assert job.after is not None
    status = observe(Path(job.after))
    if status.state in ENDED and status.state != "finished":
        return f"the run before it, {job.after}, is {status.state}: {status.reason}"
    return None


def _record_end(
    run: Path, job: record.Job, began: float, code: int, message: str
) -> None:
    end = record.Exit(code=code, at=time.time(), started_at=began, message=message)
    record.write_exit(run, job.attempt, end)


if __name__ == "__main__":
    main()
