"""Faults of hosts and of what lies between them: two hosts of a rig, an elastic job."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from dathvd.rig.chaos.fault import Fault
from dathvd.rig.chaos.job import Job
from dathvd.rig.rig import Rig, network_is_available

ALONE = 60.0
"""Seconds within which a job goes on without a host that is lost."""
AGAIN = 60.0
"""Seconds within which a host that is back is taken again, and its ranks train: most
of it is the start of as many Pythons, on a machine that other jobs share."""
_SLOW = "200kbit"
_SLOW_FOR = 5.0  # seconds
_BLINK = 0.5  # seconds; TCP sends again what was lost
_LAUNCHING = "node0"
_OTHER = "node1"


def _rig_of(job: Job) -> Rig:
    assert job.rig is not None
    return job.rig


def _away(
    leave: Callable[[Job, str], None], come_back: Callable[[Job, str], None]
) -> Callable[[Job, Random], None]:
    """A host is lost until the job goes on without it; then it is back.

    Steps are slow meanwhile, or the host that is left would finish the job alone.
    """

    def strike(job: Job, random: Random) -> None:
        host = random.choice(_rig_of(job).hosts)
        job.hold_steps()
        try:
            leave(job, host)
            if not job.wait_until(lambda: job.workers() < job.size, ALONE):
                job.problems.append(f"not gone on without {host} in {ALONE:.0f} s")
            come_back(job, host)
            if not job.wait_until(lambda: job.workers() == job.size, AGAIN):
                job.problems.append(f"{host} not taken again in {AGAIN:.0f} s")
        finally:
            job.let_steps_go()

    return strike


def _lose_link(state: str) -> Callable[[Job, Random], None]:
    return _away(
        lambda job, host: _rig_of(job).set_link(host, state),
        lambda job, host: _rig_of(job).set_link(host, "up"),
    )


def _blink(job: Job, random: Random) -> None:
    rig = _rig_of(job)
    host = random.choice(rig.hosts)
    rig.set_link(host, "down")
    time.sleep(_BLINK)
    rig.set_link(host, "up")


def _slow_down(job: Job, random: Random) -> None:
    rig = _rig_of(job)
    host = random.choice(rig.hosts)
    rig.set_rate(_SLOW, host)
    time.sleep(_SLOW_FOR)
    rig.set_rate("unlimited", host)


def _crash(job: Job, random: Random) -> None:
    """The host that does not launch loses all its processes, and is there again."""
    for pid in _rig_of(job).pids(keep=("sshd",), host=_OTHER):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _no_rig() -> str | None:
    if not network_is_available():
        return "root, ip and tc, for hosts out of network namespaces"
    return None if Path("/usr/sbin/sshd").exists() and shutil.which("ssh") else "sshd"


def _fault(what: str, strike: Callable[[Job, Random], None]) -> Fault:
    return Fault(what, strike, missing=_no_rig, phases=("step",), elastic=True, hosts=2)


HOST_FAULTS = {
    "link-down": _fault("a host's link goes down, and is back", _lose_link("down")),
    "link-black-hole": _fault(
        "a host's link swallows all, and is back", _lose_link("black-hole")
    ),
    "link-slow": _fault(f"a host's link carries {_SLOW} for 5 s", _slow_down),
    "link-blinks": _fault("a host's link is down for half a second", _blink),
    "host-away": _fault(
        "a host leaves the hostfile, and is back",
        _away(
            lambda job, host: job.offer_hosts([_LAUNCHING]),
            lambda job, host: job.offer_hosts([_LAUNCHING, _OTHER]),
        ),
    ),
    "host-crash": _fault("all processes of a host are killed", _crash),
}
"""Those faults by name."""
