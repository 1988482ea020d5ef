"""How the Triton kernels are started; imported for CUDA tensors only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dathvd.compression import triton_kernels as device
from dathvd.compression.base import num_blocks

_BLOCK = 512
_TILE = 16
"""Blocks that one program of the sign encoder takes."""
_WIDTHS = {"int8": (8, 127, 516), "int4": (4, 7, 260)}


def encode(
    kernel: str,
    values: Tensor,
    residual: Tensor | None,
    wire: Tensor,
    new_residual: Tensor | None,
    scale: float,
    *options: int,
) -> None:
    """``Compressor.encode`` by the kernels of that name."""
    count = values.numel()
    blocks = num_blocks(count, _BLOCK)
    flags: dict[str, Any] = {
        "has_residual": residual is not None,
        "has_lost": new_residual is not None,
        "enable_fp_fusion": False,
    }
    # a missing tensor still needs an address, which is never used
    inputs = (values, values if residual is None else residual)
    lost = values if new_residual is None else new_residual
    if kernel == "sign":
        inverse_last = 1.0 / (count - (blocks - 1) * _BLOCK)
        words = wire.view(torch.int32)
        numbers = (count, scale, inverse_last)
        grid = (num_blocks(blocks, _TILE),)
        device.sign_encode[grid](*inputs, words, lost, *numbers, tile=_TILE, **flags)
    else:
        width, levels, row_bytes = _WIDTHS[kernel]
        flags |= {"width": width, "levels": levels, "row_bytes": row_bytes}
        first_block, key_1, key_2 = options
        keys = (first_block, _signed(key_1), _signed(key_2))
        scales = wire.view(torch.float32)
        grid = (blocks,)
        tensors = (*inputs, wire, scales, lost)
        device.quantize_encode[grid](*tensors, count, scale, *keys, **flags)


def decode_mean(kernel: str, wires: Tensor, out: Tensor, inverse: float) -> None:
    """``Compressor.decode_mean`` by the kernels of that name."""
    workers, count = len(wires), out.numel()
    grid = (num_blocks(count, _BLOCK),)
    flags: dict[str, Any] = {"mean": workers > 1, "enable_fp_fusion": False}
    if kernel == "sign":
        words = wires.view(torch.int32)
        numbers = (words.stride(0), workers, out, count, inverse)
        device.sign_decode[grid](words, *numbers, **flags)
    else:
        width, _, row_bytes = _WIDTHS[kernel]
        flags |= {"width": width, "row_bytes": row_bytes}
        numbers = (wires.stride(0), workers, out, count, inverse)
        scales = wires.view(torch.float32)
        device.quantize_decode[grid](wires, scales, *numbers, **flags)


def _signed(word: int) -> int:
    """A 32-bit key as Triton passes it: a signed integer of the same bits."""
    return word - (1 << 32) if word >= 1 << 31 else word
