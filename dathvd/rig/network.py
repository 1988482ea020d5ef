"""The rig's network: which ``ip`` and ``tc`` commands make, limit and read it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dathvd.errors import UserError, choose

NETWORK = "10.231.0.0/24"
"""The hosts' network; it exists within a rig's namespaces only."""
DEVICE = "eth0"
UNLIMITED = "unlimited"
LINK_STATES = {
    "up": ("master br0", "up"),
    "down": ("master br0", "down"),
    "black-hole": ("nomaster", "up"),
}
"""What a link can be: the switch's port, and the host's end of it."""
_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
HEADER_BYTES = 66
"""Ethernet 14, IPv4 20, TCP 20 with its time stamps 12: of each packet that the kernel
counts, also of one that it has not cut into frames yet (segmentation offload)."""


@dataclass(frozen=True)
class Counters:
    """What one host has sent, as the kernel's interface counters tell it."""

    bytes: int
    """Bytes sent, headers included."""
    packets: int
    """Packets sent."""

    @property
    def payload(self) -> int:
        """Bytes sent without the Ethernet, IP and TCP headers."""
        return self.bytes - HEADER_BYTES * self.packets

    def since(self, before: Counters) -> Counters:
        """What was sent after ``before`` was read."""
        return Counters(self.bytes - before.bytes, self.packets - before.packets)


def host_address(index: int) -> str:
    """The IPv4 address of host ``index``."""
    return f"10.231.0.{index + 1}"


def bits_per_second(rate: str) -> float | None:
    """``"200mbit"`` as 2e8; None for ``"unlimited"``.

    Raises:
        UserError: the text is neither a rate nor ``unlimited``.
    """
    if rate == UNLIMITED:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]bit)", rate)
    if match is None or float(match[1]) == 0:
        raise UserError(
            "rate: expected a number with kbit, mbit or gbit, or 'unlimited', "
            f"got {rate!r}"
        )
    return float(match[1]) * _UNITS[match[2]]


def create_commands(switch: str, hosts: Sequence[str]) -> list[list[str]]:
    """The commands that make the namespaces and join them.

    Args:
        switch: the namespace of the bridge.
        hosts: the namespace of each host.
    """
    commands = [["ip", "netns", "add", name] for name in (switch, *hosts)]
    in_switch = ["ip", "-n", switch, "link"]
    commands.append([*in_switch, "add", "br0", "type", "bridge"])
    commands.append([*in_switch, "set", "br0", "up"])
    for index, host in enumerate(hosts):
        port = f"port{index}"
        veth = ["type", "veth", "peer", "name", DEVICE, "netns", host]
        address = f"{host_address(index)}/24"
        commands += [
            [*in_switch, "add", port, *veth],
            [*in_switch, "set", port, "master", "br0", "up"],
            ["ip", "-n", host, "address", "add", address, "dev", DEVICE],
            ["ip", "-n", host, "link", "set", "lo", "up"],
            ["ip", "-n", host, "link", "set", DEVICE, "up"],
        ]
    return commands


def link_commands(switch: str, host: str, index: int, state: str) -> list[list[str]]:
    """The commands that bring one host's link into a state.

    Args:
        switch: the namespace of the bridge.
        host: the host's namespace.
        index: the host's number.
        state: ``up``; ``down``, which the host sees at once; or ``black-hole``, in
            which both ends look well and what they send arrives nowhere.

    Raises:
        UserError: another state.
    """
    port, end = choose("link", state, LINK_STATES)
    return [
        ["ip", "-n", switch, "link", "set", f"port{index}", *port.split()],
        ["ip", "-n", host, "link", "set", DEVICE, end],
    ]


def rate_commands(switch: str, hosts: Mapping[int, str], rate: str) -> list[list[str]]:
    """The commands that limit links to ``rate``, each direction on its own.

    Args:
        switch: the namespace of the bridge.
        hosts: the namespaces of the hosts that are meant, by their numbers.
        rate: such as ``"200mbit"``, or ``"unlimited"``.
    """
    bits = bits_per_second(rate)
    ends = [(host, DEVICE) for host in hosts.values()]
    ends += [(switch, f"port{index}") for index in hosts]
    root = [
        ["tc", "-n", name, "qdisc", "replace", "dev", device, "root"]
        for name, device in ends
    ]
    if bits is None:
        return [[*command, "noqueue"] for command in root]
    # two milliseconds of the link: a smaller bucket starves it between timer ticks
    burst = str(max(64 * 1024, int(bits / 8 * 2e-3)))
    bucket = ["tbf", "rate", f"{bits:.0f}bit", "burst", burst, "latency", "50ms"]
    return [[*command, *bucket] for command in root]


def read_counters(host: str) -> Counters:
    """The counters of the host's link, by its namespace."""
    shown = call(["ip", "-n", host, "-j", "-s", "link", "show", "dev", DEVICE])
    link: dict[str, Any] = json.loads(shown)[0]
    sent = link["stats64"]["tx"]
    return Counters(bytes=sent["bytes"], packets=sent["packets"])


def call(command: Sequence[str]) -> str:
    """Run a command of iproute2; its standard output.

    Raises:
        UserError: it failed; the message holds what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise UserError(f"rig: {' '.join(command)}: {said[0]}")
    return done.stdout
