"""Codecs that change the number format alone: none, fp16, bf16."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dathvd.compression.base import Compressor, Exchange, inverse


class _Cast(Compressor):
    """Values in another float format, rounded to nearest, 8 to a block.

    The payload is a vector of ``wire_dtype``, filled up to a multiple of 4 bytes.
    """

    exchanges: ClassVar[tuple[Exchange, ...]] = ("allreduce", "two-way", "allgather")
    wire_dtype: ClassVar[torch.dtype]

    def payload_bytes(self, num_values: int) -> int:
        size = num_values * self.wire_dtype.itemsize
        return size + -size % 4

    def pack(self, values: Tensor, wire: Tensor, seed: int, offset: int = 0) -> None:
        target = wire.view(self.wire_dtype)
        target[: values.numel()].copy_(values)
        target[values.numel() :].zero_()

    def decode(self, wire: Tensor, out: Tensor) -> None:
        out.copy_(wire.view(self.wire_dtype)[: out.numel()])

    def decode_mean(self, wires: Tensor, out: Tensor) -> None:
        self.decode(wires[0], out)
        for wire in wires[1:]:
            out.add_(wire.view(self.wire_dtype)[: out.numel()])
        out.mul_(inverse(len(wires)))


class NoCompression(_Cast):
    """``none``: float32 as it is; 4 bytes a value, and nothing lost.

    Allreduce sends 8·n·(N−1)/N bytes a worker and step.
    """

    name: ClassVar[str] = "none"
    wire_dtype: ClassVar[torch.dtype] = torch.float32

    def suits(self, matrix: tuple[int, int], exchange: str) -> bool:
        """Whether it is not Horovod's own allreduce, which does the same in place."""
        return exchange != "allreduce"


class FP16(_Cast):
    """``fp16``: IEEE half precision; 2 bytes a value.

    The allreduce sums in half precision, as ``hvd.Compression.fp16`` does; two-way and
    allgather sum in float32. Magnitudes above 65504 become infinite, and surface as
    non-finite; below 6e-8 they become zero.
    """

    name: ClassVar[str] = "fp16"
    wire_dtype: ClassVar[torch.dtype] = torch.float16


class BF16(_Cast):
    """``bf16``: the upper half of a float32; 2 bytes a value, float32's range.

    Horovod 0.28.1 has no bfloat16 type, hence no allreduce of it: the bytes travel in a
    two-way exchange or an allgather, and the sum is formed in float32, which spares
    the average the rounding at every hop of a ring.
    """

    name: ClassVar[str] = "bf16"
    exchanges: ClassVar[tuple[Exchange, ...]] = ("two-way", "allgather")
    wire_dtype: ClassVar[torch.dtype] = torch.bfloat16
