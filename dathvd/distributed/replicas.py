"""All workers hold the same model: made so at the start, and proved at any time."""

from __future__ import annotations

import hashlib
import socket
from collections import Counter
from collections.abc import Iterable, Sequence

import horovod.torch as hvd
import torch
from torch import Tensor, nn

from dathvd.hashing import checksum, tensor_sha256
from dathvd.runtime import AgreedError, fill_from_root, gather_json

_REMEDY = (
    "nothing was saved since the last checkpoint. Workers come apart where they "
    "compute differently: on processors with other instructions (set "
    "ATEN_CPU_CAPABILITY=avx2 for all workers), with other versions of torch or on "
    "broken memory; the same command then goes on from that checkpoint"
)


class ReplicasDiverged(AgreedError):
    """Workers that must hold the same weights do not; raised on all of them.

    A machine's fault, no user's: the exit code is 1, and another attempt may do.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=1)


def broadcast_parameters(model: nn.Module, root: int = 0) -> None:
    """Give every worker rank ``root``'s parameters and buffers, bit by bit.

    Tensors of any layout and type; with one worker nothing happens.
    """
    if hvd.size() == 1:
        return
    for name, tensor in model.state_dict().items():
        fill_from_root(tensor, f"dathvd.start.{name}", root)


def check_weights(model: nn.Module, where: str, more: Iterable[Tensor] = ()) -> int:
    """Refuse to go on with workers whose weights have come apart. A collective.

    Costs one pass over the weights, eight bytes a worker and one host synchronisation.

    Args:
        model: whose parameters are compared; statistics may differ by worker.
        where: what the message begins with, such as ``step 100``.
        more: other tensors that must be equal on all workers, in the same order.

    Returns:
        The checksum, below 2^64 and equal on all ranks; 0 with one worker.

    Raises:
        ReplicasDiverged: on all ranks; names those that the majority disagrees with.
    """
    if hvd.size() == 1:
        return 0
    mine = checksum([*model.parameters(), *more])[None].cpu()
    sums: list[int] = hvd.allgather(mine, name="dathvd.weights").tolist()
    if len(set(sums)) > 1:
        hosts = gather_json(socket.gethostname(), "dathvd.hosts", hvd.size())
        raise ReplicasDiverged(f"{where}: {who_differs(sums, hosts)}; {_REMEDY}")
    return sums[0] % 2**64


def who_differs(sums: Sequence[int], hosts: Sequence[str]) -> str:
    """In words, which ranks hold other values than more than half of all.

    Args:
        sums: a checksum of each rank's weights, not all equal.
        hosts: the ranks' hosts.
    """
    value, agreeing = Counter(sums).most_common(1)[0]
    majority = 2 * agreeing > len(sums)
    odd = [rank for rank, own in enumerate(sums) if not majority or own != value]
    named = [f"{rank} on {hosts[rank]}" for rank in odd[:4]]
    if len(odd) > 4:
        named.append(f"{len(odd) - 4} more")
    if not majority:
        return f"workers hold different weights: ranks {', '.join(named)}"
    return (
        f"{'rank' if len(odd) == 1 else 'ranks'} {', '.join(named)} "
        f"{'does' if len(odd) == 1 else 'do'} not hold the weights of the "
        f"{agreeing} other workers"
    )


def assert_identical(model: nn.Module) -> str:
    """Check that all workers hold the same parameters and buffers. A collective.

    Returns:
        ``dathvd.hashing.parameters_sha256(model)``, equal on all ranks.

    Raises:
        ReplicasDiverged: on all ranks; names the first tensor that differs and where.
    """
    state = sorted(model.state_dict().items())
    digests = b"".join(tensor_sha256(name, tensor) for name, tensor in state)
    if hvd.size() > 1 and digests:
        mine = torch.frombuffer(bytearray(digests), dtype=torch.uint8)
        shape = (hvd.size(), len(state), -1)
        everyone = hvd.allgather(mine, name="dathvd.replicas").view(shape)
        differs = (everyone != everyone[0]).any(2).nonzero()
        if len(differs):
            first = int(differs[:, 1].min())
            ranks = differs[differs[:, 1] == first, 0].tolist()
            raise ReplicasDiverged(
                f"{state[first][0]}: rank {ranks[0]} does not hold rank 0's values "
                f"({len(differs[:, 1].unique())} of {len(state)} tensors differ); "
                f"{_REMEDY}"
            )
    return hashlib.sha256(digests).hexdigest()
