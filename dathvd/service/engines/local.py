"""The queue of this machine: attempts wait for slots, first in, first out.

Each attempt has a supervisor of its own (``dathvd.service.engines.supervisor``), a
detached process that outlives the shell it was submitted from. There is no daemon.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from dathvd.errors import UserError
from dathvd.service.attempt import output_file
from dathvd.service.engines.base import Submitted, Unreachable, View
from dathvd.service.engines.tickets import Phase, Queue, Ticket, num_slots, queue_folder
from dathvd.service.record import Job

SUPERVISOR = [sys.executable, "-P", "-m", "dathvd.service.engines.supervisor"]
"""What starts a supervisor; its arguments are a ticket, the number of slots, and the
descriptor of the ticket's lock."""


class Local:
    """This machine."""

    name: ClassVar[str] = "local"
    option_names: ClassVar[dict[str, str]] = {
        "max_restarts": "Start a failed attempt again, up to this many times.",
    }

    def submit(self, run: Path, job: Job) -> str:
        slots = num_slots()
        if job.num_proc > slots:
            raise UserError(
                f"-np {job.num_proc}: this machine's queue has {slots} slots "
                "(DATHVD_SLOTS sets their number)"
            )
        queue = Queue(queue_folder())
        phase: Phase = "held" if job.after else "waiting"
        ticket = queue.add(job.name, run, job.attempt, job.num_proc, phase)
        supervise(ticket, slots)
        return job.name

    resume = submit

    def find(self, run: Path, job: Job) -> str | None:
        self._ask(job)
        return job.name if Queue(queue_folder()).get(job.name) else None

    def view_all(self, jobs: Sequence[Submitted]) -> dict[str, View | Unreachable]:
        queue = Queue(queue_folder())
        tickets = queue.tickets()
        waiting = [t.name for t in tickets if t.phase == "waiting"]
        views: dict[str, View | Unreachable] = {}
        by_name = {ticket.name: ticket for ticket in tickets}
        for submitted in jobs:
            try:
                self._ask(submitted.job)
            except Unreachable as elsewhere:
                views[submitted.job.uuid] = elsewhere
                continue
            ticket = by_name.get(submitted.job.name)
            if ticket is not None:
                views[submitted.job.uuid] = self._view(queue, ticket, waiting)
        return views

    def stop(self, submitted: Submitted, *, now: bool) -> None:
        """The supervisor reads the request itself; one that died is started again."""
        self._ask(submitted.job)
        queue = Queue(queue_folder())
        ticket = queue.get(submitted.job.name)
        if ticket is not None:
            self._view(queue, ticket, [])

    def _view(self, queue: Queue, ticket: Ticket, waiting: Sequence[str]) -> View:
        alive = queue.is_held(ticket.name)
        if ticket.phase == "started":
            if alive:
                return View("running")
            return View("ended", "its supervisor was killed")
        if not alive:  # killed before it started anything: nothing is lost
            supervise(ticket, num_slots())
        if ticket.phase == "held":
            return View("queued", "waits for another run")
        if ticket.name not in waiting:
            return View("queued")
        return View("queued", f"place {1 + waiting.index(ticket.name)} in the queue")

    def _ask(self, job: Job) -> None:
        if job.host != platform.node():
            raise Unreachable(f"it was submitted on {job.host}; ask there")


def supervise(ticket: Ticket, slots: int) -> None:
    """Start a supervisor that no shell and no logout ends, unless there is one.

    The ticket is locked here and the lock handed on: there is no moment, however long a
    process takes to start, in which the ticket looks as if nobody cared for it.
    """
    lock = Queue(queue_folder()).hold(ticket.name, patience=0.2)
    if lock is None:
        return
    run = Path(ticket.run)
    with os.fdopen(lock, "rb"), output_file(run, ticket.attempt).open("ab") as log:
        subprocess.Popen(
            [*SUPERVISOR, ticket.name, str(slots), str(lock)],
            pass_fds=[lock],
            cwd="/",
            env={**os.environ, "DATHVD_STATE": str(queue_folder())},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
