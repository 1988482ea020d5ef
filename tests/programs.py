"""The programs that tests drive: which are there, and how a test says what it needs."""

from __future__ import annotations

import os
import shutil

import pytest

LAUNCHING = ("mpirun", "ssh")
"""What starts ranks: Open MPI refuses to start even one rank where no ssh is."""
RIG = ("ip", "tc")
SLURM_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
SYSTEM = ("ip", "tc", "sshd", "slurmctld", "slurmd", "munged", "shellcheck", "pgrep")
"""What tests of launching and of networks drive."""
OPTIONAL = (*SYSTEM, "chromium", "pg_ctlcluster")
"""What `make test` installs where it may, and what no test may take for granted."""


def missing(*programs: str) -> list[str]:
    """Those of the programs that cannot be run here, also looking where root's are."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return [name for name in programs if shutil.which(name, path=path) is None]


def require(*programs: str) -> None:
    """Skip the test or fixture that calls this where one of the programs is missing."""
    if absent := missing(*programs):
        pytest.skip(f"not installed: {', '.join(absent)}")


def skip_what_lacks_programs(items: list[pytest.Item]) -> None:
    """Mark tests for skipping whose ``needs`` marks name a program that is not here."""
    for item in items:
        needed = [name for mark in item.iter_markers("needs") for name in mark.args]
        if absent := missing(*dict.fromkeys(needed)):
            reason = f"not installed: {', '.join(absent)}"
            item.add_marker(pytest.mark.skip(reason=reason))
