"""Whether hosts can be reached before anything is started on them, and over what."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from dathvd.errors import UserError
from dathvd.launch.command import SSH_OPTIONS
from dathvd.launch.hosts import Host, interface_of, is_local
from dathvd.launch.options import LaunchOptions

_TIMEOUT = int(SSH_OPTIONS["ConnectTimeout"]) + 10
_MARK = "dathvd-interfaces "
# prints the interface of this end of the ssh connection, the address of the other, and
# what the host calls itself
_INTERFACE = (
    "import os, socket; from dathvd.launch.hosts import interface_of; "
    "c = (os.environ.get('SSH_CONNECTION') or '- - - -').split(); "
    f"print('{_MARK}', interface_of(c[2]), c[0], socket.gethostname())"
)


@dataclass(frozen=True)
class Probe:
    """What a host said when it was asked."""

    host: str
    problem: str | None = None
    """One line on why it cannot be used; None where it can."""
    interfaces: tuple[str | None, str | None] = (None, None)
    """The interfaces that the connection uses there and here, where they are known."""
    own_name: str | None = None
    """What the host calls itself, which may be no name in a list of hosts."""


@dataclass(frozen=True)
class Answers:
    """What a list of hosts said when they were asked."""

    hosts: tuple[Host, ...]
    """Those that can be used now."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """A line about each other one, by its name."""
    interface: str | None = None
    """What all talk over, where that has one name everywhere."""
    names: Mapping[str, str] = field(default_factory=dict)
    """The names in the list by those that the hosts call themselves."""


def ssh_command(host: str, options: LaunchOptions, remote: str) -> list[str]:
    """ssh without questions; a new host's key is noted, a changed one refused."""
    words = ["ssh"]
    for name, value in SSH_OPTIONS.items():
        words += ["-o", f"{name}={value}"]
    if options.ssh_port is not None:
        words += ["-p", str(options.ssh_port)]
    if options.ssh_identity_file:
        words += ["-i", options.ssh_identity_file]
    return [*words, host, remote]


def check_hosts(options: LaunchOptions) -> LaunchOptions:
    """See that every other host can be reached and has this Python and this folder.

    Returns:
        The options with the interface that all hosts talk over, where none was named
        and all have one of the same name.

    Raises:
        UserError: the first host that cannot be used, why, and what to do; or, over
            Gloo, that there is no common interface.
    """
    probes = probe_hosts(options)
    bad = [probe.problem for probe in probes if probe.problem]
    if bad:
        more = f" (and {len(bad) - 1} more hosts with problems)" if bad[1:] else ""
        raise UserError(bad[0] + more)
    if not probes or options.network_interface:
        return options
    if (interface := _common_interface(probes)) is not None:
        return replace(options, network_interface=interface)
    if options.controller == "gloo":
        told = ", ".join(f"{p.host} over {p.interfaces[0]}" for p in probes[:4])
        raise UserError(
            f"--gloo: the hosts talk over interfaces of different names ({told}); "
            "name a common one with --network-interface, or use --mpi"
        )
    return options


def hosts_that_answer(options: LaunchOptions) -> Answers:
    """The hosts that can be used now, and what is wrong with the others."""
    probes = probe_hosts(options)
    problems = {p.host: p.problem for p in probes if p.problem}
    return Answers(
        tuple(host for host in options.hosts if host.name not in problems),
        problems,
        _common_interface([p for p in probes if not p.problem]),
        {p.own_name: p.host for p in probes if p.own_name}
        | {socket.gethostname(): h.name for h in options.hosts if is_local(h.name)},
    )


def _common_interface(probes: Sequence[Probe]) -> str | None:
    found = {name for probe in probes for name in probe.interfaces}
    return found.pop() if len(found) == 1 else None


def probe_hosts(options: LaunchOptions) -> list[Probe]:
    """Ask every host that is not this one, all at once."""
    remote = [host.name for host in options.hosts if not is_local(host.name)]
    with ThreadPoolExecutor(max_workers=32) as pool:
        return list(pool.map(lambda host: probe(host, options), remote))


def probe(host: str, options: LaunchOptions) -> Probe:
    """Ask one host for what a rank needs."""
    folder, python = os.getcwd(), sys.executable
    command = shlex.join([python, "-P", "-c", _INTERFACE])
    check = (
        f"cd {shlex.quote(folder)} 2>/dev/null || exit 101; "
        f"test -x {shlex.quote(python)} || exit 102; {_path()}{command}; exit 103"
    )
    try:
        done = subprocess.run(
            ssh_command(host, options, check),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return _unreachable(host, options, "no answer")
    except OSError as error:
        return _unreachable(host, options, f"ssh cannot be started: {error.strerror}")
    if done.returncode == 103:
        return _answered(host, done.stdout)
    if done.returncode == 101:
        problem = f"host {host}: no folder {folder} (use a shared or equal path)"
        return Probe(host, problem)
    if done.returncode == 102:
        problem = f"host {host}: no {python} (set dathvd up there at the same path)"
        return Probe(host, problem)
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = lines[-1] if lines else f"exit code {done.returncode}"
    return _unreachable(host, options, said)


def _path() -> str:
    """The setting by which the other Python finds the same dathvd."""
    path = os.environ.get("PYTHONPATH")
    return f"PYTHONPATH={shlex.quote(path)} " if path else ""


def _unreachable(host: str, options: LaunchOptions, said: str) -> Probe:
    port = f" on port {options.ssh_port}" if options.ssh_port is not None else ""
    return Probe(
        host,
        f"host {host}: cannot be reached over ssh{port}: {said} "
        f"(ssh {host} true must work without a password)",
    )


def _answered(host: str, said: str) -> Probe:
    """What stands in the probe's line, among what a login may print."""
    for line in said.splitlines():
        if line.startswith(_MARK):
            there, here, own_name = line.removeprefix(_MARK).split()
            known = None if there == "None" else there
            return Probe(host, None, (known, interface_of(here)), own_name)
    return Probe(host)
