"""Lists of hosts with slots, as horovodrun and Open MPI write them."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path

from dathvd.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Host:
    """A host and how many ranks may run on it."""

    name: str
    slots: int = 1

    def __str__(self) -> str:
        return f"{self.name}:{self.slots}"


def parse_hosts(text: str) -> tuple[Host, ...]:
    """``"a:2,b"`` to hosts; a host without a number has one slot.

    Raises:
        UserError: a name or a number of slots is not valid, or a host is named twice.
    """
    return _checked([_host(part, f"-H {text}") for part in text.split(",")], text)


def parse_hostfile(path: str | Path) -> tuple[Host, ...]:
    """A file with a host a line: ``a slots=2``, ``a:2`` or ``a``; ``#`` comments.

    Raises:
        UserError: the file cannot be read, holds no host, or a line is not valid.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"--hostfile {path}: cannot be read: {reason}") from None
    hosts = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if words:
            slots = [w.partition("=")[2] for w in words[1:] if w.startswith("slots=")]
            entry = words[0] + "".join(f":{value}" for value in slots)
            hosts.append(_host(entry, f"--hostfile {path}, line {number}"))
    if not hosts:
        raise UserError(f"--hostfile {path}: it names no host")
    return _checked(hosts, str(path))


def is_local(name: str) -> bool:
    """Whether a host name means this machine."""
    if name in ("localhost", socket.gethostname(), socket.getfqdn()):
        return True
    import psutil

    try:
        address = socket.gethostbyname(name)
    except OSError:
        return False
    own = [entry for entries in psutil.net_if_addrs().values() for entry in entries]
    return address in {entry.address for entry in own}


def interface_of(address: str) -> str | None:
    """The name of this machine's interface with that address, such as eth0."""
    import psutil

    for name, entries in psutil.net_if_addrs().items():
        if address in {entry.address.partition("%")[0] for entry in entries}:
            return name
    return None


def _host(entry: str, where: str) -> Host:
    name, colon, slots = entry.strip().partition(":")
    if not _NAME.fullmatch(name):
        raise UserError(f"{where}: {name!r} is not a host name (write a:2,b:2)")
    if colon and not (slots.isdigit() and int(slots) > 0):
        raise UserError(
            f"{where}: slots of {name}: expected a whole number of at least 1, "
            f"got {slots!r}"
        )
    return Host(name, int(slots) if colon else 1)


def _checked(hosts: list[Host], where: str) -> tuple[Host, ...]:
    names = [host.name for host in hosts]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: host {name!r} is named twice (add its slots up)")
    return tuple(hosts)
