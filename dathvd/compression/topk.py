"""``topk``: the largest values of each block, with their places."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dathvd.compression.base import Exchange, check_positive, in_blocks
from dathvd.compression.fused import FusedCompressor

_BLOCK = 16384
_NAN_RANK = 0x7F800001


class TopK(FusedCompressor):
    """The ``density`` share of each block of 16384 values that is largest in magnitude.

    Sparsified SGD with memory (Stich et al., NeurIPS 2018; Alistarh et al., 2018), the
    selection made block by block (as in ScaleCom, Chen et al., NeurIPS 2020): the
    payload's size is then fixed, the selection is exact and cheap, every layer is
    heard, and a place needs 2 bytes, not 4.

    A block of m values sends ``k = round(density · m)``, at least 1: k float32 values,
    then k places (uint16, ascending), then 2 bytes of zeros if k is odd. Equal
    magnitudes are taken from the front; NaN counts as the largest. Values that are sent
    are exact, so that their residual is 0.

    Two-way is a sparse reduce-scatter by range of places (a chunk has whole blocks),
    averaged densely and selected again by the owner: about 12·density·n·(N−1)/N bytes a
    worker, whatever the number of workers.

    Args:
        density: the share that is sent, in (0, 1].
        error_feedback: see ``Compressor``.
    """

    name: ClassVar[str] = "topk"
    kernel: ClassVar[str] = "topk"
    on_gpu: ClassVar[bool] = True
    exchanges: ClassVar[tuple[Exchange, ...]] = ("two-way", "allgather")
    error_feedback: bool = True
    warmup: ClassVar[float] = 0.25
    block: int = _BLOCK

    def __init__(
        self, density: float = 0.01, *, error_feedback: bool | None = None
    ) -> None:
        super().__init__(error_feedback=error_feedback)
        check_positive("density", density, 1.0)
        self.density = density

    def __repr__(self) -> str:
        return f"TopK(density={self.density}, error_feedback={self.error_feedback})"

    def kept(self, num_values: int) -> int:
        """The number of values that a block of ``num_values`` (at most 16384) sends."""
        return min(num_values, max(1, round(self.density * num_values)))

    def payload_bytes(self, num_values: int) -> int:
        blocks, rest = divmod(num_values, _BLOCK)
        size = blocks * _row_bytes(self.kept(_BLOCK))
        return size + (_row_bytes(self.kept(rest)) if rest else 0)

    def encode_options(self, count: int, seed: int, offset: int) -> tuple[int, ...]:
        return self.decode_options(count)

    def decode_options(self, count: int) -> tuple[int, ...]:
        return self.kept(_BLOCK), self.kept(count % _BLOCK)

    def pack(self, values: Tensor, wire: Tensor, seed: int, offset: int = 0) -> None:
        whole = values.numel() - values.numel() % _BLOCK
        middle = self.payload_bytes(whole)
        if whole:
            rows = in_blocks(values[:whole], _BLOCK)
            _pack_rows(rows, self.kept(_BLOCK), wire[:middle])
        if whole < values.numel():
            rest = values[whole:]
            _pack_rows(rest[None], self.kept(rest.numel()), wire[middle:])

    def unpack(self, wire: Tensor, out: Tensor) -> None:
        whole = out.numel() - out.numel() % _BLOCK
        middle = self.payload_bytes(whole)
        out.zero_()
        if whole:
            rows = out[:whole].view(-1, _BLOCK)
            _unpack_rows(wire[:middle], self.kept(_BLOCK), rows)
        if whole < out.numel():
            rest = out[whole:]
            _unpack_rows(wire[middle:], self.kept(rest.numel()), rest[None])


def _row_bytes(kept: int) -> int:
    """Bytes of a block that sends ``kept`` values: 4 + 2 each, in whole words."""
    return 4 * kept + 4 * ((kept + 1) // 2)


def _pack_rows(rows: Tensor, kept: int, wire: Tensor) -> None:
    """The payload of ``rows [blocks, m]``, each an own block."""
    ranks = rows.view(torch.int32).bitwise_and(0x7FFFFFFF).clamp_(max=_NAN_RANK)
    places = torch.arange(rows.shape[1], device=rows.device)
    unique = ranks.to(torch.int64).bitwise_left_shift_(16).sub_(places)
    chosen = unique.topk(kept, dim=1, sorted=False).indices.sort(dim=1).values
    values = rows.gather(1, chosen) + 0.0  # adding 0.0 turns -0.0 into 0.0
    values = torch.where(values.isnan(), torch.nan, values)
    packed = wire.view(len(rows), -1)
    packed[:, : 4 * kept] = values.view(torch.uint8)
    packed[:, 4 * kept : 6 * kept] = chosen.to(torch.uint16).view(torch.uint8)
    packed[:, 6 * kept :] = 0


def _unpack_rows(wire: Tensor, kept: int, rows: Tensor) -> None:
    """Write the values of a payload into ``rows [blocks, m]``, which holds zeros."""
    packed = wire.view(len(rows), -1)
    values = packed[:, : 4 * kept].contiguous().view(torch.float32)
    places = packed[:, 4 * kept : 6 * kept].contiguous().view(torch.uint16)
    rows.scatter_(1, places.to(torch.int64), values)
