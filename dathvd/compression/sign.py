"""``sign``: one bit a value and one mean magnitude a block."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dathvd.compression.base import Exchange, in_blocks, num_blocks
from dathvd.compression.fused import FusedCompressor

_BLOCK = 512
_LANES = 16
_GROUPS = _BLOCK // _LANES


class Sign(FusedCompressor):
    """Signs, and the mean magnitude of each block of 512 values.

    With error feedback this is EF-SignSGD (Karimireddy et al., ICML 2019) on blocks, as
    in Zheng et al. (NeurIPS 2019); the mean magnitude is the scale of least squared
    error, so that a block loses the share ``1 - ‖x‖₁² / (512·‖x‖₂²)`` of its energy.

    68 bytes a block: the scale (float32), then 16 words of 32 bits; bit g of word l is
    the sign of value ``16·g + l`` (1: negative), so that packing needs no shuffles. A
    last, partly filled block is sent whole, its scale the mean of the values it has.

    The scale is summed in 16 lanes, folded in halves: a fixed order, hence the same
    bits on every path. A block that holds a non-finite value, or whose magnitudes
    overflow float32 in sum, gets the scale NaN.
    """

    name: ClassVar[str] = "sign"
    kernel: ClassVar[str] = "sign"
    on_gpu: ClassVar[bool] = True
    exchanges: ClassVar[tuple[Exchange, ...]] = ("two-way", "allgather")
    error_feedback: bool = True
    warmup: ClassVar[float] = 0.25
    block: int = _BLOCK

    def payload_bytes(self, num_values: int) -> int:
        return num_blocks(num_values, _BLOCK) * (4 + _BLOCK // 8)

    def pack(self, values: Tensor, wire: Tensor, seed: int, offset: int = 0) -> None:
        groups = in_blocks(values, _BLOCK).view(-1, _GROUPS, _LANES)
        scales = _lane_sums(groups).mul_(_inverse_counts(values))
        finite = torch.isfinite(scales)
        negative = groups.view(torch.int32).bitwise_right_shift(31).bitwise_and_(1)
        places = torch.arange(_GROUPS, dtype=torch.int32, device=values.device)
        words = negative.bitwise_left_shift_(places[:, None]).sum(1, dtype=torch.int32)
        rows = wire.view(torch.int32).view(-1, 1 + _LANES)
        rows[:, 0] = scales.masked_fill_(~finite, torch.nan).view(torch.int32)
        rows[:, 1:] = words.mul_(finite[:, None])

    def decodes_to_finite(self, wire: Tensor) -> bool:
        scales = wire.view(torch.float32).view(-1, 1 + _LANES)[:, 0]
        return bool(scales.isfinite().all())

    def unpack(self, wire: Tensor, out: Tensor) -> None:
        rows = wire.view(torch.int32).view(-1, 1 + _LANES)
        places = torch.arange(31, -1, -1, dtype=torch.int32, device=out.device)
        signs = rows[:, None, 1:].bitwise_left_shift(places[:, None])
        signs.bitwise_and_(-(1 << 31)).bitwise_or_(rows[:, :1, None])
        out.copy_(signs.view(torch.float32).view(-1)[: out.numel()])


def _lane_sums(groups: Tensor) -> Tensor:
    """Sums of magnitudes ``[blocks]`` of ``[blocks, 32, 16]`` in the fixed order."""
    lanes = groups[:, 0].abs()
    for group in range(1, _GROUPS):
        lanes += groups[:, group].abs()
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


def _inverse_counts(values: Tensor) -> Tensor:
    """The factors float32(1 / values in the block), one for each block."""
    blocks = num_blocks(values.numel(), _BLOCK)
    counts = torch.full((blocks,), 1.0 / _BLOCK, device=values.device)
    counts[-1] = 1.0 / (values.numel() - (blocks - 1) * _BLOCK)
    return counts
