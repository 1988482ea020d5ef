"""A launcher of a user's own: Slurm's."""

from __future__ import annotations

from collections.abc import Mapping

from dathvd.launch.launchers.launcher import Launcher
from dathvd.launch.options import LaunchOptions


def _arguments(options: LaunchOptions, environment: Mapping[str, str]) -> list[str]:
    words = ["--mpi=pmix", "-n", str(options.num_proc)]
    if options.hosts:
        words += ["-w", ",".join(host.name for host in options.hosts)]
    return words


SRUN = Launcher("srun", ("mpi",), _arguments)
