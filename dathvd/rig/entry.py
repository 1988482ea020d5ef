"""How a process comes to run on a host of the rig, and the files it needs there."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from dathvd.errors import UserError
from dathvd.rig.network import NETWORK, call, host_address

# A host is a network namespace, its own host name and its own /etc/hosts. The mounts
# are private to the process and its children: nothing of the machine's is written.
_ENTER = """\
#!/bin/sh
# enter HOST COMMAND [ARGUMENT...]: run a command on a host of this rig
host=$1; shift
exec ip netns exec "{name}-$host" unshare --mount --uts sh -c '
    hostname "$1" && mount --bind "{folder}/hosts" /etc/hosts || exit 125
    if [ -f "{folder}/ssh_config" ]; then
        mount --bind "{folder}/ssh_config" /etc/ssh/ssh_config || exit 125
    fi
    shift; exec "$@"' sh "$host" "$@"
"""
_AGENT = """\
#!/bin/sh
# agent HOST COMMAND LINE: what mpirun calls in the place of ssh
host=$1; shift
exec sh "{folder}/enter" "$host" sh -c "$*"
"""
_SSHD_CONFIG = """\
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
PidFile none
"""
_SSH_CONFIG = """\
IdentityFile {folder}/key
GlobalKnownHostsFile {folder}/known_hosts
UserKnownHostsFile /dev/null
StrictHostKeyChecking yes
ConnectionAttempts 10
LogLevel ERROR
"""


def write_files(folder: Path, name: str, hosts: Sequence[str]) -> None:
    """Write ``hosts``, ``enter`` and ``agent`` into the rig's folder."""
    lines = ["127.0.0.1 localhost"]
    lines += [f"{host_address(index)} {host}" for index, host in enumerate(hosts)]
    (folder / "hosts").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for file, text in (("enter", _ENTER), ("agent", _AGENT)):
        filled = text.format(name=name, folder=folder)
        (folder / file).write_text(filled, encoding="utf-8")


def enter_command(folder: Path, host: str, command: Sequence[str]) -> list[str]:
    """The arguments that run ``command`` on ``host``, from outside or within."""
    return ["sh", f"{folder}/enter", host, *command]


def start_sshd(folder: Path, hosts: Sequence[str]) -> None:
    """Make keys for this rig alone and start an sshd on each host."""
    server = Path("/usr/sbin/sshd")
    if not server.exists():
        raise UserError("rig: --ssh needs sshd (apt-get install openssh-server)")
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd refuses to start without its folder
    for key in ("key", "host_key"):
        call(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{folder}/{key}"])
    public = (folder / "host_key.pub").read_text(encoding="utf-8").split()[:2]
    known = "".join(f"{host} {' '.join(public)}\n" for host in hosts)
    (folder / "known_hosts").write_text(known, encoding="utf-8")
    for file, text in (("sshd_config", _SSHD_CONFIG), ("ssh_config", _SSH_CONFIG)):
        (folder / file).write_text(text.format(folder=folder), encoding="utf-8")
    for host in hosts:
        started = [str(server), "-f", f"{folder}/sshd_config"]
        subprocess.run(enter_command(folder, host, started), check=True)


def mpirun_command(
    folder: Path,
    hosts: Sequence[str],
    command: Sequence[str],
    *,
    per_host: int = 1,
    ssh: bool = False,
) -> list[str]:
    """The arguments of an mpirun with ``per_host`` ranks on each host.

    Call it on the first host. Ranks of one host meet in shared memory.

    ``btl_tcp_flags 1`` has Open MPI send only: its default, a put protocol, uses the
    two directions of a link in turn and takes twice the time on a slow one.
    """
    agent = "ssh" if ssh else f"sh {folder}/agent"
    settings = {
        "plm": "rsh",
        "plm_rsh_agent": agent,
        "oob_tcp_if_include": NETWORK,
        "pml": "ob1",
        "btl": "tcp,self" if per_host == 1 else "tcp,vader,self",
        "btl_tcp_if_include": NETWORK,
        "btl_tcp_flags": "1",
        "mpi_yield_when_idle": "1",
    }
    flags = [word for item in settings.items() for word in ("-mca", *item)]
    places = ",".join(f"{host}:{per_host}" for host in hosts)
    size = str(per_host * len(hosts))
    start = ["mpirun", "--allow-run-as-root", "-np", size, "-H", places]
    return [*start, "--bind-to", "none", *flags, *command]
