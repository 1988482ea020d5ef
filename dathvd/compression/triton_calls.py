"""The launches of the Triton kernels; imported for CUDA tensors only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dathvd.compression import triton_kernels as device
from dathvd.compression import triton_topk as topk
from dathvd.compression.base import num_blocks

_BLOCK = 512
_TILE = 16
"""Blocks that one program of the sign encoder takes."""
_TOPK_BLOCK = 16384
# warps of a program and groups of lanes that it loads at once, by measurement (H200)
SIGN_WARPS = 4
SIGN_UNROLL = 4
QUANTIZE_WARPS = 1
TOPK_WARPS = 8
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
    if kernel == "topk":
        _encode_topk(values, residual, wire, new_residual, scale, *options)
        return
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
        flags |= {"tile": _TILE, "unroll": SIGN_UNROLL, "num_warps": SIGN_WARPS}
        device.sign_encode[grid](*inputs, words, lost, *numbers, **flags)
    else:
        width, levels, row_bytes = _WIDTHS[kernel]
        flags |= {"width": width, "levels": levels, "row_bytes": row_bytes}
        flags["num_warps"] = QUANTIZE_WARPS
        first_block, key_1, key_2 = options
        keys = (first_block, _signed(key_1), _signed(key_2))
        scales = wire.view(torch.float32)
        grid = (blocks,)
        tensors = (*inputs, wire, scales, lost)
        device.quantize_encode[grid](*tensors, count, scale, *keys, **flags)


def decode_mean(
    kernel: str, wires: Tensor, out: Tensor, inverse: float, *options: int
) -> None:
    """``Compressor.decode_mean`` by the kernels of that name."""
    workers, count = len(wires), out.numel()
    if kernel == "topk":
        _decode_topk(wires, out, inverse, *options)
        return
    grid = (num_blocks(count, _BLOCK),)
    flags: dict[str, Any] = {"mean": workers > 1, "enable_fp_fusion": False}
    if kernel == "sign":
        words = wires.view(torch.int32)
        numbers = (words.stride(0), workers, out, count, inverse)
        device.sign_decode[grid](words, *numbers, **flags)
    else:
        width, _, row_bytes = _WIDTHS[kernel]
        flags |= {"width": width, "row_bytes": row_bytes}
        flags["num_warps"] = QUANTIZE_WARPS
        numbers = (wires.stride(0), workers, out, count, inverse)
        scales = wires.view(torch.float32)
        device.quantize_decode[grid](wires, scales, *numbers, **flags)


def _encode_topk(
    values: Tensor,
    residual: Tensor | None,
    wire: Tensor,
    new_residual: Tensor | None,
    scale: float,
    kept_whole: int,
    kept_last: int,
) -> None:
    inputs = (values, values if residual is None else residual)
    lost = values if new_residual is None else new_residual
    wires = (wire.view(torch.float32), wire.view(torch.int16))
    sizes = (kept_whole, kept_last, _topk_row(kept_whole))
    topk.topk_encode[(num_blocks(values.numel(), _TOPK_BLOCK),)](
        *inputs,
        *wires,
        lost,
        values.numel(),
        scale,
        *sizes,
        has_residual=residual is not None,
        has_lost=new_residual is not None,
        enable_fp_fusion=False,
        num_warps=TOPK_WARPS,
    )


def _decode_topk(
    wires: Tensor, out: Tensor, inverse: float, kept_whole: int, kept_last: int
) -> None:
    sizes = (kept_whole, kept_last, _topk_row(kept_whole))
    topk.topk_decode[(num_blocks(out.numel(), _TOPK_BLOCK),)](
        wires.view(torch.float32),
        wires.view(torch.int16),
        wires.stride(0),
        len(wires),
        out,
        out.numel(),
        inverse,
        *sizes,
        mean=len(wires) > 1,
        most=1 << (max(kept_whole, kept_last) - 1).bit_length(),
        enable_fp_fusion=False,
    )


def _topk_row(kept: int) -> int:
    """Bytes of a whole block: values, places, and two bytes if their number is odd."""
    return 4 * kept + 4 * ((kept + 1) // 2)


def _signed(word: int) -> int:
    """A 32-bit key as Triton passes it: a signed integer of the same bits."""
    return word - (1 << 32) if word >= 1 << 31 else word
