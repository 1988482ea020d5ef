"""One hash for all that a network holds."""

from __future__ import annotations

import hashlib

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
