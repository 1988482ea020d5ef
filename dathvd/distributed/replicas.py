"""All workers hold the same model: made so at the start, and proved at any time."""

from __future__ import annotations

import hashlib

import horovod.torch as hvd
import torch
from torch import nn

from dathvd.hashing import raw_bytes, tensor_sha256


class ReplicasDiverged(RuntimeError):
    """Workers that must hold the same weights do not."""


def broadcast_parameters(model: nn.Module, root: int = 0) -> None:
    """Give every worker rank ``root``'s parameters and buffers, bit by bit.

    Tensors of any layout and type; with one worker nothing happens.
    """
    if hvd.size() == 1:
        return
    for name, tensor in model.state_dict().items():
        flat = raw_bytes(tensor)
        if flat.numel():
            sent = hvd.broadcast(flat, root, name=f"dathvd.start.{name}")
            tensor.copy_(sent.view(tensor.dtype).view(tensor.shape))


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
                f"({len(differs[:, 1].unique())} of {len(state)} tensors differ)"
            )
    return hashlib.sha256(digests).hexdigest()
