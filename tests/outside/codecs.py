"""A codec of a user's own."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dathvd.compression import Compressor, Exchange


class Shortened(Compressor):
    """float32 without the last bits of its fraction; 4 bytes a value.

    Args:
        dropped: how many bits become zero, from 0 to 22.
        error_feedback: see ``Compressor``.
    """

    name: ClassVar[str] = "shortened"
    exchanges: ClassVar[tuple[Exchange, ...]] = ("two-way", "allgather")
    error_feedback: bool = True

    def __init__(
        self, dropped: int = 16, *, error_feedback: bool | None = None
    ) -> None:
        super().__init__(error_feedback=error_feedback)
        self.dropped = dropped

    def payload_bytes(self, num_values: int) -> int:
        return 4 * num_values

    def pack(self, values: Tensor, wire: Tensor, seed: int, offset: int = 0) -> None:
        bits = values.view(torch.int32) & -(1 << self.dropped)
        kept = torch.where(values.isfinite(), bits, values.view(torch.int32))
        wire.view(torch.int32).copy_(kept)

    def decode(self, wire: Tensor, out: Tensor) -> None:
        out.view(torch.int32).copy_(wire.view(torch.int32))
