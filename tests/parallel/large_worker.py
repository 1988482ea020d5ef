"""Sends more than 2 GiB between two ranks, whole; prints what arrived intact.

``large_worker.py [PART]``: PART bytes at most in one collective, instead of what the
product sends at most.
"""

from __future__ import annotations

import functools
import sys

import horovod.torch as hvd
import torch
from torch import Tensor, nn

from dathvd import runtime
from dathvd.distributed import broadcast_parameters
from dathvd.distributed.from_root import tree_from_root

LENGTH = 2**31 + 12_345
"""Bytes: more than a signed number of 32 bits can count."""
_PERIOD = 251  # bytes, after which the pattern comes again
_PIECE = 2**26  # bytes, no multiple of it


@functools.cache
def _tile() -> Tensor:
    return torch.arange(_PIECE + _PERIOD).remainder_(_PERIOD).to(torch.uint8)


def pattern(start: int, stop: int) -> Tensor:
    """What stands there: another value than 2^31 or 2^32 bytes before."""
    first = start % _PERIOD
    return _tile()[first : first + stop - start]


def filled(values: Tensor) -> Tensor:
    """The tensor of bytes, with the pattern."""
    for start in range(0, len(values), _PIECE):
        stop = min(start + _PIECE, len(values))
        values[start:stop] = pattern(start, stop)
    return values


def is_filled(values: Tensor) -> bool:
    """Whether all of it is the pattern."""
    starts = range(0, len(values), _PIECE)
    return len(values) == LENGTH and all(
        torch.equal(piece, pattern(start, start + len(piece)))
        for start, piece in zip(starts, values.split(_PIECE), strict=True)
    )


def main() -> None:
    place = runtime.start("cpu")
    if len(sys.argv) > 1:
        runtime.PART = int(sys.argv[1])
    values = torch.zeros(LENGTH, dtype=torch.uint8)
    model = nn.Module()
    model.register_buffer("values", filled(values) if place.is_root else values)
    broadcast_parameters(model)
    _say("a tensor at the start", is_filled(values))
    if not place.is_root:
        del model, values
        tree = tree_from_root(place, {})
    else:
        tree = tree_from_root(place, {"values": values})
        del model, values
    _say("a tensor of a checkpoint", is_filled(tree["values"]))
    data = tree.pop("values").numpy().tobytes() if place.is_root else b""
    del tree
    data = runtime.bytes_from_root(data, "large")
    arrived = torch.frombuffer(bytearray(data[-_PIECE:]), dtype=torch.uint8)
    expected = pattern(LENGTH - _PIECE, LENGTH)
    _say("bytes", len(data) == LENGTH and torch.equal(arrived, expected))


def _say(what: str, intact: bool) -> None:
    everywhere = hvd.allreduce(torch.tensor([int(intact)]), op=hvd.Sum, name="intact")
    if hvd.rank() == 0:
        print(f"{what}: {int(everywhere)} of {hvd.size()} intact", flush=True)


if __name__ == "__main__":
    main()
