"""Whether the engines answer, as the doctor tells it."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from dathvd.doctor.finding import Finding
from dathvd.errors import UserError
from dathvd.service.engines.base import Unreachable
from dathvd.service.engines.programs import ask
from dathvd.service.engines.tickets import Queue, num_slots, queue_folder


def engine_findings() -> list[Finding]:
    """One finding an engine; one whose programs are not here is not at fault."""
    return [
        _found("local", None, _local, "see DATHVD_STATE and DATHVD_SLOTS"),
        _found("slurm", "sinfo", _slurm, "see: scontrol ping"),
        _found("kubernetes", "kubectl", _kubernetes, "see: kubectl cluster-info"),
        _found("lsf", "bqueues", _lsf, "see: lsid"),
    ]


def _found(
    name: str, program: str | None, look: Callable[[], str], remedy: str
) -> Finding:
    if program is not None and shutil.which(program) is None:
        return Finding(name, f"not here: there is no {program}")
    try:
        return Finding(name, look())
    except (Unreachable, UserError) as error:
        return Finding(name, str(error), "FAIL", remedy)


def _local() -> str:
    tickets = Queue(queue_folder()).tickets()
    running = [each for each in tickets if each.phase == "started"]
    return (
        f"{num_slots()} slots, {len(running)} runs started, "
        f"{len(tickets) - len(running)} waiting"
    )


def _slurm() -> str:
    lines = ask(["sinfo", "--noheader", "--format=%P %D nodes %T"]).splitlines()
    return ", ".join(" ".join(line.split()) for line in lines) or "no partition"


def _kubernetes() -> str:
    try:
        ask(["kubectl", "get", "crd", "mpijobs.kubeflow.org", "-o", "name"])
    except Unreachable as error:
        if "NotFound" in str(error):
            raise UserError("it answers, and has no MPI operator (MPIJob)") from None
        raise
    return "answers, with the MPI operator"


def _lsf() -> str:
    lines = ask(["bqueues", "-noheader", "-o", "queue_name status"]).splitlines()
    return ", ".join(" ".join(line.split()) for line in lines) or "no queue"
