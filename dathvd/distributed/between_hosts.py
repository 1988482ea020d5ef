"""Parts of hot states on their way between hosts, over Horovod."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor

from dathvd import runtime


def partner(rank: int, hosts: Sequence[str]) -> int:
    """A rank of the next host: the one that also keeps what this rank has.

    Args:
        rank: whose.
        hosts: of all ranks.
    """
    names = list(dict.fromkeys(hosts))
    here = [each for each, host in enumerate(hosts) if host == hosts[rank]]
    following = names[(names.index(hosts[rank]) + 1) % len(names)]
    there = [each for each, host in enumerate(hosts) if host == following]
    return there[here.index(rank) % len(there)]


def send_to_partner(
    parts: dict[str, bytes], rank: int, hosts: Sequence[str]
) -> dict[str, bytes]:
    """Send parts to this rank's partner; the parts that come in. A collective."""
    import horovod.torch as hvd

    data = _packed(parts)
    lengths = hvd.allgather(torch.tensor([len(data)]), name="hot.lengths").tolist()
    to = partner(rank, hosts)
    senders = [each for each in range(len(hosts)) if partner(each, hosts) == rank]
    received: dict[int, list[Tensor]] = {sender: [] for sender in senders}
    for start in range(0, max(lengths), runtime.PART):
        piece = data[start : start + runtime.PART]
        splits = torch.zeros(len(hosts), dtype=torch.int32)
        splits[to] = len(piece)
        output, counts = hvd.alltoall(piece, splits=splits, name="hot.parts")
        for sender, each in enumerate(output.split(counts.tolist())):
            if sender in received:
                received[sender].append(each)
    arrived: dict[str, bytes] = {}
    for pieces in received.values():
        arrived |= _unpacked(torch.cat(pieces))
    return arrived


def _packed(parts: dict[str, bytes]) -> Tensor:
    """A line with names and lengths, and the bytes."""
    head = json.dumps({name: len(data) for name, data in parts.items()}).encode()
    whole = bytearray(b"\n".join([head, b"".join(parts.values())]))
    return torch.frombuffer(whole, dtype=torch.uint8)


def _unpacked(data: Tensor) -> dict[str, bytes]:
    head, _, rest = bytes(data.numpy()).partition(b"\n")
    parts, start = {}, 0
    for name, length in json.loads(head).items():
        parts[name] = rest[start : start + length]
        start += length
    return parts
