"""Open MPI's launcher."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dathvd.launch.environment import is_for_ranks
from dathvd.launch.hosts import Host
from dathvd.launch.launchers.launcher import Launcher
from dathvd.launch.options import LaunchOptions


def _arguments(options: LaunchOptions, environment: Mapping[str, str]) -> list[str]:
    hosts = options.hosts or (Host("localhost", options.num_proc),)
    words = ["--allow-run-as-root", "--tag-output", "-np", str(options.num_proc)]
    words += ["-H", ",".join(map(str, hosts)), "--bind-to", "none", "--map-by", "slot"]
    words += ["-mca", "pml", "ob1", "-mca", "btl", "^openib"]
    if options.network_interface:
        for component in ("btl_tcp_if_include", "oob_tcp_if_include"):
            words += ["-mca", component, options.network_interface]
    for name in sorted(environment):
        if re.fullmatch(r"[A-Za-z_]\w*", name) and is_for_ranks(name):
            words += ["-x", name]
    return words


MPIRUN = Launcher("mpirun", ("mpi",), _arguments)
