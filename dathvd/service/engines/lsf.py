"""LSF: an attempt is a batch job that launches its ranks over the hosts it was given.

Written after IBM's reference of ``bsub``, ``bjobs -json`` and ``bkill``, and tested
against programs that answer in that form: no LSF was at hand.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from dathvd.errors import UserError
from dathvd.service.attempt import output_file, rank_arguments
from dathvd.service.engines.base import Submitted, Unreachable, View
from dathvd.service.engines.exported import EXPORT, asked_for, exported
from dathvd.service.engines.programs import ask
from dathvd.service.record import Job

_WAITING = {"PEND", "PSUSP", "USUSP", "SSUSP", "WAIT", "PROV"}
_HOSTS = (
    'read -ra pairs <<<"$LSB_MCPU_HOSTS"; hosts=; for ((i = 0; i < ${#pairs[@]}; '
    "i += 2)); do hosts+=${hosts:+,}${pairs[i]}:${pairs[i + 1]}; done"
)
"""Turns LSF's list of hosts and slots into that of ``dathvd launch``."""


class Lsf:
    """The cluster that ``bsub`` and ``bjobs`` of this machine speak to."""

    name: ClassVar[str] = "lsf"
    option_names: ClassVar[dict[str, str]] = {
        "export": EXPORT,
        "gpu": "bsub -gpu.",
        "max_restarts": "Start a failed attempt again, up to this many times.",
        "project": "bsub -P.",
        "queue": "bsub -q.",
        "resources": "bsub -R, such as span[ptile=4].",
        "time": "bsub -W, as hours:minutes.",
    }
    _FLAGS: ClassVar[dict[str, str]] = {
        "gpu": "-gpu",
        "project": "-P",
        "queue": "-q",
        "resources": "-R",
        "time": "-W",
    }

    def submit(self, run: Path, job: Job) -> str:
        words = ["bsub", "-J", job.name, "-Jd", f"dathvd {job.uuid}"]
        words += ["-n", str(job.num_proc), "-o", str(output_file(run, job.attempt))]
        words += ["-cwd", job.folder, "-r"]
        words += ["-env", exported(job, os.environ) or "none"]
        for name, flag in self._FLAGS.items():
            if name in job.options:
                words += [flag, job.options[name]]
        if "time" in job.options:
            words += ["-wa", "USR1", "-wt", "2"]
        try:
            answer = ask(words, batch_script(run, job))
        except Unreachable as error:
            if "Request aborted" in str(error) or "Job not submitted" in str(error):
                raise UserError(str(error)) from None
            raise
        # Job <123> is submitted to queue <normal>.
        return answer.partition("<")[2].partition(">")[0]

    resume = submit

    def find(self, run: Path, job: Job) -> str | None:
        return next((str(row["JOBID"]) for row in _jobs([job.name])), None)

    def view_all(self, jobs: Sequence[Submitted]) -> dict[str, View | Unreachable]:
        by_name = {each.job.name: each.job.uuid for each in jobs}
        return {by_name[row["JOB_NAME"]]: _view(row) for row in _jobs(by_name)}

    def stop(self, submitted: Submitted, *, now: bool) -> None:
        found = _jobs([submitted.job.name])
        for row in found:
            waits = row["STAT"] in _WAITING
            signal = [] if waits or now else ["-s", "USR1"]
            ask(["bkill", *signal, str(row["JOBID"])])


def batch_script(run: Path, job: Job) -> str:
    """What bsub reads: the attempt's watcher around ``dathvd launch``."""
    python = [sys.executable, "-P", "-m"]
    watcher = [*python, "dathvd.service.attempt", str(run), str(job.attempt)]
    restarts = job.options.get("max_restarts", "2")
    forward = [f"--env={name}" for name in asked_for(job)]
    launch = [*python, "dathvd", "launch", "--max-restarts", restarts, *forward]
    ranks = shlex.join(rank_arguments(run, job))
    return (
        f"#!/usr/bin/env bash\n{_HOSTS}\n"
        f'exec {shlex.join(watcher)} --requeue "brequeue -r $LSB_JOBID" -- '
        f'{shlex.join(launch)} -np {job.num_proc} -H "$hosts" -- {ranks}\n'
    )


def _jobs(names: Iterable[str]) -> list[dict[str, str]]:
    """The jobs of these names that LSF still knows, ended ones too."""
    wanted = set(names)
    fields = "jobid job_name stat pend_reason exec_host exit_code"
    try:
        answer = ask(["bjobs", "-a", "-json", "-o", fields])
    except Unreachable as error:
        if "No job found" in str(error):
            return []
        raise
    try:
        records = json.loads(answer)["RECORDS"]
    except (ValueError, KeyError):
        raise Unreachable("bjobs: its answer is not JSON") from None
    return [row for row in records if row.get("JOB_NAME") in wanted]


def _view(row: dict[str, str]) -> View:
    state = row["STAT"]
    if state in _WAITING:
        return View("queued", row.get("PEND_REASON", ""))
    if state == "RUN":
        return View("running", f"on {row.get('EXEC_HOST', '')}")
    if state in ("DONE", "EXIT"):
        code = row.get("EXIT_CODE", "")
        number = 0 if state == "DONE" else int(code) if code.isdigit() else None
        return View("ended", "LSF: it ended", number)
    return View("queued", f"LSF: {state}")  # UNKWN, ZOMBI: LSF has lost its host
