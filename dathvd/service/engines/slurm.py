"""Slurm: an attempt is a batch job, its ranks are started by srun.

Jobs are told apart by their names, which hold the submission's uuid: Slurm's own ids
are used again, and a job that ended is forgotten within minutes. The batch script
records the attempt's end itself.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from dathvd.errors import UserError
from dathvd.service.attempt import output_file, rank_arguments
from dathvd.service.engines.base import Submitted, Unreachable, View
from dathvd.service.engines.exported import EXPORT, exported
from dathvd.service.engines.programs import ask
from dathvd.service.record import Job

_WAITING = {
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
    "SUSPENDED",
}
_ALIVE = {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"}
_REFUSED = re.compile(
    r"invalid|not available|violates|exceeds|unable to|denied|more processors", re.I
)


class Slurm:
    """The cluster that ``sbatch`` and ``squeue`` of this machine speak to."""

    name: ClassVar[str] = "slurm"
    option_names: ClassVar[dict[str, str]] = {
        "account": "sbatch --account.",
        "constraint": "sbatch --constraint.",
        "export": EXPORT,
        "gpus_per_task": "sbatch --gpus-per-task.",
        "mpi": "srun's --mpi plug-in, pmix by default.",
        "nodes": "sbatch --nodes.",
        "partition": "sbatch --partition.",
        "qos": "sbatch --qos.",
        "time": "sbatch --time.",
    }

    def submit(self, run: Path, job: Job) -> str:
        words = ["sbatch", "--parsable", f"--job-name={job.name}"]
        words += [f"--comment=dathvd {job.uuid}", f"--ntasks={job.num_proc}"]
        words += [f"--output={output_file(run, job.attempt)}", "--open-mode=append"]
        words += ["--requeue", "--signal=B:USR1@120", f"--chdir={job.folder}"]
        words.append(f"--export={exported(job, os.environ) or 'NONE'}")
        for name in sorted(set(job.options) - {"mpi", "export"}):
            words.append(f"--{name.replace('_', '-')}={job.options[name]}")
        try:
            answer = ask(words, batch_script(run, job))
        except Unreachable as error:
            if _REFUSED.search(str(error)):
                raise UserError(str(error)) from None
            raise
        return answer.strip().partition(";")[0]

    resume = submit

    def find(self, run: Path, job: Job) -> str | None:
        return next((id for id, name, _, _ in _queue([job.name])), None)

    def view_all(self, jobs: Sequence[Submitted]) -> dict[str, View | Unreachable]:
        by_name = {each.job.name: each.job.uuid for each in jobs}
        views: dict[str, View | Unreachable] = {}
        for _, name, state, reason in _queue(by_name):
            views[by_name[name]] = _view(state, reason)
        return views

    def stop(self, submitted: Submitted, *, now: bool) -> None:
        name = f"--name={submitted.job.name}"
        if now:
            ask(["scancel", name])
            return
        ask(["scancel", "--state=PENDING", name])
        # the batch script passes it on to the ranks, which save and leave
        ask(["scancel", "--state=RUNNING", "--batch", "--signal=USR1", name])


def batch_script(run: Path, job: Job) -> str:
    """What sbatch reads: the attempt's watcher around srun."""
    mpi = job.options.get("mpi", "pmix")
    python = [sys.executable, "-P", "-m"]
    ranks = ["srun", f"--mpi={mpi}", "--label", "--kill-on-bad-exit=0"]
    ranks += [*python, "dathvd", *rank_arguments(run, job)]
    watcher = [*python, "dathvd.service.attempt", str(run), str(job.attempt)]
    return (
        "#!/usr/bin/env bash\n"
        # sbatch sends all names that begin with SLURM_; srun is to pass on what is left
        "unset SLURM_JWT; export SLURM_EXPORT_ENV=ALL\n"
        f"exec {shlex.join(watcher)} "
        f'--requeue "scontrol requeue $SLURM_JOB_ID" -- {shlex.join(ranks)}\n'
    )


def _queue(names: Iterable[str]) -> list[tuple[str, str, str, str]]:
    """(id, name, state, reason) of the jobs of these names that Slurm still knows."""
    wanted = set(names)
    answer = ask(["squeue", "--noheader", "--states=all", "--format=%i|%j|%T|%r|%N"])
    found = []
    for line in answer.splitlines():
        id, name, state, reason, nodes = (line.split("|") + [""] * 5)[:5]
        if name in wanted:
            found.append((id, name, state, nodes if state == "RUNNING" else reason))
    return found


def _view(state: str, reason: str) -> View:
    if state in _WAITING:
        return View("queued", "" if reason == "None" else reason)
    if state in _ALIVE:
        return View("running", f"on {reason}" if state == "RUNNING" else state.lower())
    return View("ended", f"Slurm: {state.lower().replace('_', ' ')}")
