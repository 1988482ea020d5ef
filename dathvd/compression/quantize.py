"""``int8`` and ``int4``: blocks scaled by their maximum, rounded stochastically."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dathvd.compression.base import Exchange, in_blocks, num_blocks
from dathvd.compression.fused import FusedCompressor
from dathvd.compression.random_bits import BLOCK, keys, random_bits

_LEAST_SCALE = 2.0**-110
"""Keeps ``2**16 / scale`` inside float32."""
_SAFE_SCALE = 2.0**100
"""Below it no level of a block is beyond float32."""


class _Quantizer(FusedCompressor):
    """``level = floor(x · levels / max + u)``, u uniform in (0, 1) by (seed, place).

    The rounding of QSGD (Alistarh et al., NeurIPS 2017) with the maximum of each block
    of 512 in place of the L2 norm of a tensor, which keeps the error below one level of
    the block. In fixed point: ``level = (trunc(2**16 · x · levels / max) + 16 random
    bits) >> 16``. Unbiased: the mean over seeds is the input, to 2**-15 of a level. A
    block whose scale ``max / levels`` is below 2**-110 is sent as zeros, and a residual
    keeps it; one with a non-finite value has the scale NaN.
    """

    exchanges: ClassVar[tuple[Exchange, ...]] = ("two-way", "allgather")
    on_gpu: ClassVar[bool] = True
    block: int = BLOCK
    bits: ClassVar[int]
    levels: ClassVar[int]

    def payload_bytes(self, num_values: int) -> int:
        return num_blocks(num_values, BLOCK) * (4 + BLOCK * self.bits // 8)

    def encode_options(self, count: int, seed: int, offset: int) -> tuple[int, ...]:
        return offset // BLOCK, *keys(seed)

    def pack(self, values: Tensor, wire: Tensor, seed: int, offset: int = 0) -> None:
        rows = in_blocks(values, BLOCK)
        largest = rows.abs().amax(1)
        scales = largest * (1.0 / self.levels)
        sent = torch.isfinite(scales) & (scales >= _LEAST_SCALE)
        # number / tensor would be computed as number * (1 / tensor), rounded twice
        top = torch.full_like(largest, self.levels)
        steps = torch.where(sent, top / largest * 65536.0, 0.0)
        bits = random_bits(seed, offset // BLOCK, len(rows), values.device)
        scaled = (rows * steps[:, None]).nan_to_num_(0.0, 0.0, 0.0).to(torch.int32)
        levels = scaled.add_(bits).bitwise_right_shift_(16)
        levels.clamp_(-self.levels, self.levels).mul_(sent[:, None])
        scales = torch.where(sent | ~torch.isfinite(scales), scales, 0.0)
        scales = torch.where(torch.isfinite(scales), scales, torch.nan)
        packed = wire.view(len(rows), -1)
        packed[:, :4] = scales.view(-1, 1).view(torch.uint8)
        packed[:, 4:] = self._to_codes(levels.to(torch.int8))

    def decodes_to_finite(self, wire: Tensor) -> bool:
        blocks = wire.view(torch.float32).view(-1, self.payload_bytes(BLOCK) // 4)
        return bool((blocks[:, 0] < _SAFE_SCALE).all())

    def unpack(self, wire: Tensor, out: Tensor) -> None:
        packed = wire.view(num_blocks(out.numel(), BLOCK), -1)
        scales = packed[:, :4].contiguous().view(torch.float32)
        decoded = self._to_levels(packed[:, 4:]).to(torch.float32).mul_(scales)
        out.copy_(decoded.view(-1)[: out.numel()])

    def _to_codes(self, levels: Tensor) -> Tensor:
        raise NotImplementedError

    def _to_levels(self, codes: Tensor) -> Tensor:
        raise NotImplementedError


class Int8(_Quantizer):
    """``int8``: 255 levels; 516 bytes a block of 512 (scale, then one byte a value)."""

    name: ClassVar[str] = "int8"
    kernel: ClassVar[str] = "int8"
    bits: ClassVar[int] = 8
    levels: ClassVar[int] = 127

    def _to_codes(self, levels: Tensor) -> Tensor:
        return levels.view(torch.uint8)

    def _to_levels(self, codes: Tensor) -> Tensor:
        return codes.view(torch.int8)


class Int4(_Quantizer):
    """``int4``: 15 levels; 260 bytes a block of 512.

    Byte j holds the levels, plus 8, of values j (low half) and j + 256 (high half).
    Error feedback is on by default: the error energy is a few percent, far below 1, so
    that the feedback is stable and turns a random walk into a bounded error.
    """

    name: ClassVar[str] = "int4"
    kernel: ClassVar[str] = "int4"
    bits: ClassVar[int] = 4
    levels: ClassVar[int] = 7
    error_feedback: bool = True

    def _to_codes(self, levels: Tensor) -> Tensor:
        low, high = levels.add(8).view(torch.uint8).chunk(2, dim=1)
        return low | (high << 4)

    def _to_levels(self, codes: Tensor) -> Tensor:
        halves = torch.cat((codes & 15, codes >> 4), dim=1)
        return halves.view(torch.int8) - 8
