"""One hash for all that a network holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def tensor_sha256(name: str, tensor: Tensor) -> bytes:
    """SHA-256 of a tensor's name, type, shape and bits."""
    head = f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode()
    # copied to the host: a check now and then, not a part of the training step
    return hashlib.sha256(head + raw_bytes(tensor).cpu().numpy().tobytes()).digest()


def raw_bytes(tensor: Tensor) -> Tensor:
    """The tensor's values as uint8 ``[bytes]``, in row-major order."""
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)


def parameters_sha256(model: nn.Module) -> str:
    """SHA-256, in hex, over names, types, shapes and bits of parameters and buffers."""
    whole = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        whole.update(tensor_sha256(name, tensor))
    return whole.hexdigest()


@torch.no_grad()
def checksum(tensors: Iterable[Tensor]) -> Tensor:
    """A scalar int64 of all bits, on the first tensor's device.

    The sum of their 64-bit words, each tensor's with a weight of its own, modulo 2^64:
    one changed value always shows, and values that drift do but for a chance of 2^-64.
    It is for checks between processes that trust each other, not against forgery.
    """
    sums = [
        (2 * place + 1) * _sum_of_words(tensor) for place, tensor in enumerate(tensors)
    ]
    if not sums:
        return torch.zeros((), dtype=torch.int64)
    return torch.stack([each.to(sums[0].device) for each in sums]).sum()


def _sum_of_words(tensor: Tensor) -> Tensor:
    octets = raw_bytes(tensor)
    if octets.storage_offset() % 8:
        octets = octets.clone()
    whole = octets.numel() // 8 * 8
    words = octets[:whole].view(torch.int64).sum()
    return words + octets[whole:].sum(dtype=torch.int64)
