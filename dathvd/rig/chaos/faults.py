"""The faults: how each strikes a job, what mends it, which exit codes it allows."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import psutil

from dathvd.errors import TEMPORARY_FAILURE
from dathvd.rig.chaos import clock
from dathvd.rig.chaos.fault import Fault
from dathvd.rig.chaos.host_faults import HOST_FAULTS
from dathvd.rig.chaos.job import Job
from dathvd.rig.chaos.victim import ORDER, order_wrong
from dathvd.training.saving import NONE_LEFT

_FROZEN = 2.0  # seconds for which something is stopped that then goes on
_STEPS_OF_CLOCK = (300, 12 * 3600, 400 * 86400)  # seconds


def _send(kind: str, number: int) -> Callable[[Job, Random], None]:
    """A signal to one process of a kind, if there is one."""

    def strike(job: Job, random: Random) -> None:
        if found := job.of_kind(kind):
            with contextlib.suppress(psutil.Error):
                random.choice(found).send_signal(number)

    return strike


def _freeze(kind: str) -> Callable[[Job, Random], None]:
    """Stop one process of a kind for a while."""

    def strike(job: Job, random: Random) -> None:
        if found := job.of_kind(kind):
            with contextlib.suppress(psutil.Error):
                process = random.choice(found)
                process.suspend()
                time.sleep(_FROZEN)
                process.resume()

    return strike


def _signal(kind: str, number: int, *codes: int) -> Fault:
    what = f"{signal.Signals(number).name} to a {kind}"
    return Fault(what, _send(kind, number), codes=frozenset({0, *codes}))


def _offer(change: int) -> Callable[[Job, Random], None]:
    """Let an elastic job have more ranks, or fewer."""
    return lambda job, random: job.offer(max(1, job.size + change))


def _lose_host(job: Job, random: Random) -> None:
    """A rank dies, and its slot is not there any more."""
    job.offer(max(1, job.size - 1))
    _send("rank", signal.SIGKILL)(job, random)


def _fill_disk(job: Job, random: Random) -> None:
    """Leave no byte free on the run folder's disk."""
    block = bytes(1 << 12)
    with contextlib.suppress(OSError), open(job.folder / "disk/filler", "wb", 0) as f:
        while True:
            f.write(block)


def _free_disk(job: Job, random: Random) -> None:
    (job.folder / "disk/filler").unlink(missing_ok=True)


def _make_read_only(job: Job, random: Random) -> None:
    """Lay a read-only view over the disk.

    Its own mount could not be changed while a log is open for writing, nor could a view
    that the job sees already. One that is made read-only elsewhere stays so in its
    place.
    """
    disk, view = str(job.folder / "disk"), job.folder / "view"
    view.mkdir(exist_ok=True)
    for words in (
        ["mount", "--bind", disk, str(view)],
        ["mount", "-o", "remount,bind,ro", str(view)],
        ["mount", "--bind", str(view), disk],
        ["umount", str(view)],
    ):
        subprocess.run(words, check=True)


def _make_writable(job: Job, random: Random) -> None:
    if not os.access(job.folder / "disk", os.W_OK):
        subprocess.run(["umount", "--lazy", str(job.folder / "disk")], check=True)


def _cannot_mount() -> str | None:
    if os.geteuid() != 0:
        return "root, for a disk of its own"
    return None if shutil.which("mount") else "mount"


def _corrupt(job: Job, random: Random) -> None:
    """Change a byte of the newest checkpoint of a job that has ended.

    Where it was the only one, the job says so and does not begin again by itself: it is
    moved away.
    """
    if not job.checkpoints():
        return
    newest = job.checkpoints()[-1]
    if NONE_LEFT in job.said():
        newest.rename(job.folder / "damaged")
        if job.checkpoints():
            job.problems.append(f"exit code 2 though {job.checkpoints()[-1]} is left")
        return
    files = sorted(newest.glob("*.pt"))
    file = random.choice(files)
    data = bytearray(file.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    file.write_bytes(data)


def _kill_all(job: Job, random: Random) -> None:
    """A power cut: everything at once."""
    for process in job.processes():
        with contextlib.suppress(psutil.Error):
            process.kill()


def ordered(folder: Path) -> bool:
    """Whether a wrong computation is ordered that no pass has come to any more."""
    return _order(folder).exists()


def _order(folder: Path) -> Path:
    return folder / "order"


def _flip(job: Job, random: Random) -> None:
    rank = random.randrange(job.size)
    order_wrong(_order(job.folder), rank=rank, bit=random.randrange(32))


def _compute_infinity(job: Job, random: Random) -> None:
    order_wrong(_order(job.folder), rank=random.randrange(job.size), bit=None)


def _order_file(folder: Path) -> Mapping[str, str]:
    return {ORDER: str(_order(folder))}


def _step_clock(job: Job, random: Random) -> None:
    """The time of day jumps there and back, by minutes or by months."""
    for _ in range(2):
        clock.step(job.folder, random.choice([-1, 1]) * random.choice(_STEPS_OF_CLOCK))
        time.sleep(random.uniform(0, 1))
    clock.step(job.folder, 0)


_KILL, _TERM, _USR1 = signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1

FAULTS: Mapping[str, Fault] = {
    "kill-rank": _signal("rank", _KILL),
    "stop-rank": _signal("rank", signal.SIGSTOP),
    "term-rank": _signal("rank", _TERM, TEMPORARY_FAILURE),
    "kill-companion": _signal("companion", _KILL),
    "stop-companion": Fault("SIGSTOP to a companion, 2 s", _freeze("companion")),
    "term-companion": _signal("companion", _TERM, TEMPORARY_FAILURE),
    "kill-mpirun": _signal("mpirun", _KILL),
    "stop-mpirun": _signal("mpirun", signal.SIGSTOP),
    "kill-launcher": _signal("launcher", _KILL, -_KILL),
    "stop-launcher": Fault("SIGSTOP to the launcher, 2 s", _freeze("launcher")),
    "term-launcher": _signal("launcher", _TERM, TEMPORARY_FAILURE, 1),
    "usr1-launcher": _signal("launcher", _USR1, TEMPORARY_FAILURE, 1),
    "kill-keeper": _signal("keeper", _KILL),
    "power-cut": Fault(
        "all processes killed at once",
        _kill_all,
        codes=frozenset({0, -_KILL}),
    ),
    "corrupt-checkpoint": Fault(
        "power cut, and a flipped bit in the newest checkpoint",
        _kill_all,
        _corrupt,
        codes=frozenset({0, -_KILL, 2}),
        phases=("step", "evaluation"),
    ),
    "disk-full": Fault(
        "no space left on the run folder's disk",
        _fill_disk,
        _free_disk,
        codes=frozenset({0, 1, 2}),
        missing=_cannot_mount,
        disk_bytes=4 << 20,
    ),
    "disk-read-only": Fault(
        "the run folder's disk becomes read-only",
        _make_read_only,
        _make_writable,
        codes=frozenset({0, 1, 2}),
        missing=_cannot_mount,
        disk_bytes=16 << 20,
    ),
    "wrong-bit": Fault(
        "a flipped bit in one rank's weights",
        _flip,
        phases=("step",),
        least=2,  # it is found by comparing ranks
        environment=_order_file,
    ),
    "infinity": Fault(
        "one rank computes infinities in one pass",
        _compute_infinity,
        phases=("step",),
        environment=_order_file,
        skips=1,
    ),
    "clock-steps": Fault(
        "steps of the time of day, ahead or back",
        _step_clock,
        missing=clock.missing,
        environment=clock.environment,
    ),
    "host-leaves": Fault(
        "fewer slots in the hostfile",
        _offer(-1),
        phases=("step",),
        elastic=True,
    ),
    "host-joins": Fault(
        "more slots in the hostfile",
        _offer(+1),
        phases=("step",),
        elastic=True,
    ),
    "host-lost": Fault(
        "SIGKILL to a rank, and fewer slots",
        _lose_host,
        phases=("step",),
        elastic=True,
    ),
    **HOST_FAULTS,
}
"""All faults by name."""


def available() -> tuple[list[str], dict[str, str]]:
    """The faults that can be made here, and what is missing for each other one."""
    lacks = {name: fault.missing() for name, fault in FAULTS.items()}
    return (
        [name for name, reason in lacks.items() if reason is None],
        {name: reason for name, reason in lacks.items() if reason is not None},
    )
