"""``paper``: the quantiser of the DAT paper, for comparison."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dathvd.compression.base import Compressor, Exchange
from dathvd.compression.random_bits import BLOCK, uniforms

_LEVELS = 127


class Paper(Compressor):
    """QSGD (Alistarh et al., NeurIPS 2017) with one L2 norm a tensor, s = 127 levels.

    As in Zhang et al., *Distributed Adversarial Training to Robustify Deep Neural
    Networks at Scale* (UAI 2022), but decoded without bias:
    ``sign · level · ‖g‖₂ / s``, where ``level = floor(s·|g|/‖g‖₂ + u)``. A tensor of n
    values has typical magnitude ``‖g‖₂/√n``, far below one level once n exceeds s², so
    that its error energy exceeds 1 for large tensors; error feedback would diverge and
    is off.

    One call must see one tensor (``per_tensor``): the payload is its norm (float32),
    then n signed bytes, filled up to a multiple of 4. It travels in an allgather, as in
    the paper's code, and costs (N−1)·n bytes a worker.
    """

    name: ClassVar[str] = "paper"
    exchanges: ClassVar[tuple[Exchange, ...]] = ("allgather",)
    block: int = BLOCK
    per_tensor: ClassVar[bool] = True

    def payload_bytes(self, num_values: int) -> int:
        return 4 + num_values + -num_values % 4 if num_values else 0

    def pack(self, values: Tensor, wire: Tensor, seed: int, offset: int = 0) -> None:
        count = values.numel()
        norm = values.to(torch.float64).norm().to(torch.float32)
        sent = torch.isfinite(norm) & (norm > _LEVELS * torch.finfo(torch.float32).tiny)
        factor = torch.where(sent, _LEVELS / norm, 0.0)
        blocks = -(-count // BLOCK)
        draws = uniforms(seed, offset // BLOCK, blocks, values.device).view(-1)[:count]
        levels = draws.add_(values.abs().mul_(factor)).floor_().clamp_(max=_LEVELS)
        levels.copysign_(values).masked_fill_(~sent, 0.0)
        finite = torch.isfinite(norm)
        scale = torch.where(finite, torch.where(sent, norm, 0.0), torch.nan)
        wire[:4] = scale.view(1).view(torch.uint8)
        wire[4 : 4 + count] = levels.to(torch.int8).view(torch.uint8)
        wire[4 + count :] = 0

    def decode(self, wire: Tensor, out: Tensor) -> None:
        norm = wire[:4].view(torch.float32)
        out.copy_(wire[4 : 4 + out.numel()].view(torch.int8)).mul_(norm / _LEVELS)
