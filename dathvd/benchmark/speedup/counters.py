"""Bytes that this host has sent, as the kernel counts them."""

from __future__ import annotations

from pathlib import Path

# Ethernet 14, IPv4 20, TCP 20 with its time stamps 12
HEADERS = 66


def payload_bytes_sent() -> int:
    """Over all interfaces but the loopback, without the headers of TCP's packets.

    Read from /proc/net/dev, which shows the network namespace of this process.
    """
    total = 0
    for line in Path("/proc/net/dev").read_text(encoding="ascii").splitlines()[2:]:
        name, _, numbers = line.partition(":")
        if name.strip() != "lo":
            fields = numbers.split()
            total += int(fields[8]) - HEADERS * int(fields[9])
    return total
