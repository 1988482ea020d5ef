"""Horovod's own launcher."""

from __future__ import annotations

from collections.abc import Mapping

from dathvd.launch.engines.engine import Engine
from dathvd.launch.options import LaunchOptions


def _arguments(options: LaunchOptions, environment: Mapping[str, str]) -> list[str]:
    words = ["-np", str(options.num_proc)]
    if options.hosts:
        words += ["-H", ",".join(map(str, options.hosts))]
    words.append(f"--{options.controller}")
    if options.network_interface:
        words += ["--network-interface", options.network_interface]
    if options.ssh_port is not None:
        words += ["--ssh-port", str(options.ssh_port)]
    if options.ssh_identity_file:
        words += ["--ssh-identity-file", options.ssh_identity_file]
    return words


HOROVODRUN = Engine("horovodrun", ("mpi", "gloo"), _arguments)
