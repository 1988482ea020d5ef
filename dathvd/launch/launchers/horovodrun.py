"""Horovod's own launcher, over Gloo.

It is not used over MPI: there it adds a service to each host whose key stands on
command lines, where all users of the host can read it. Over Gloo it does the same
unless it is told the interface.
"""

from __future__ import annotations

from collections.abc import Mapping

from dathvd.errors import UserError
from dathvd.launch.hosts import is_local
from dathvd.launch.launchers.launcher import Launcher
from dathvd.launch.options import LaunchOptions


def _arguments(options: LaunchOptions, environment: Mapping[str, str]) -> list[str]:
    if not (options.network_interface or all(is_local(h.name) for h in options.hosts)):
        raise UserError(
            "--gloo on several hosts: name the interface that they talk over with "
            "--network-interface, such as eth0 (or use --mpi)"
        )
    words = ["-np", str(options.num_proc)]
    if options.hosts:
        words += ["-H", ",".join(map(str, options.hosts))]
    words.append("--gloo")
    if options.network_interface:
        words += ["--network-interface", options.network_interface]
    if options.ssh_port is not None:
        words += ["--ssh-port", str(options.ssh_port)]
    if options.ssh_identity_file:
        words += ["--ssh-identity-file", options.ssh_identity_file]
    return words


HOROVODRUN = Launcher("horovodrun", ("gloo",), _arguments)
