"""Options to the argument list that starts the ranks: pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dathvd.launch.environment import check_forwarded, for_launcher
from dathvd.launch.launchers import LAUNCHERS, choose_launcher
from dathvd.launch.options import LaunchOptions

SSH_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "accept-new",
    "ConnectTimeout": "5",
    "ConnectionAttempts": "1",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
}
"""No questions; a new host's key is noted, a changed one refused; a host that is gone
is noticed within seconds."""


def launch_command(
    options: LaunchOptions,
    worker: Sequence[str],
    *,
    installed: Mapping[str, str],
    environment: Mapping[str, str],
) -> list[str]:
    """The command that starts ``worker`` on every rank: mpirun, or horovodrun for Gloo.

    horovodrun is not used over MPI: it adds a service to each host whose key stands on
    command lines, where all users of the host can read it. Over Gloo it does the same
    unless it is told the interface.

    Args:
        options: What to start.
        worker: One rank's program and its arguments.
        installed: Path of each launcher that is there, by its name.
        environment: What the ranks get; only names reach a command line of MPI.

    Raises:
        UserError: no launcher is there that can start the ranks.
    """
    launcher = choose_launcher(options, installed)
    arguments = LAUNCHERS[launcher].arguments(options, environment)
    return [installed[launcher], *arguments, *worker]


def launch_environment(
    environ: Mapping[str, str], options: LaunchOptions
) -> dict[str, str]:
    """The environment of the program that starts the ranks, and with it of the ranks.

    Of what is set here only what ``dathvd.launch.environment`` lists, and what
    ``--env`` names.

    Raises:
        UserError: a variable to forward is not set, or its value is a secret that
            would stand on command lines.
    """
    check_forwarded(environ, options)
    environment = for_launcher(environ, options)
    return {**_defaults(options), **environment}


def _defaults(options: LaunchOptions) -> dict[str, str]:
    """Settings that are better than the libraries' own; the user's own win."""
    defaults = {
        "PYTHONUNBUFFERED": "1",
        # horovodrun starts interpreters that would import from the current folder
        "PYTHONSAFEPATH": "1",
        # pages that glibc keeps instead of giving back and faulting in each step
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        "MALLOC_TOP_PAD_": str(64 << 20),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    if options.hosts:
        # the default protocol (put) serialises a link's two directions
        defaults["OMPI_MCA_btl_tcp_flags"] = "1"
        # a host that has gone is noticed after 30 s instead of eight minutes
        defaults["OMPI_MCA_oob_tcp_keepalive_time"] = "10"
        defaults["OMPI_MCA_oob_tcp_keepalive_intvl"] = "5"
        defaults["OMPI_MCA_oob_tcp_keepalive_probes"] = "4"
        words = [f"-o {name}={value}" for name, value in SSH_OPTIONS.items()]
        words += [f"-p {options.ssh_port}"] if options.ssh_port is not None else []
        if options.ssh_identity_file:
            words.append(f"-i {options.ssh_identity_file}")
        defaults["OMPI_MCA_plm_rsh_args"] = " ".join(words)
    if options.network_interface:
        defaults["NCCL_SOCKET_IFNAME"] = options.network_interface
    return defaults
