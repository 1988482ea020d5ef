"""The selection of top-k for CUDA tensors: the CPU's payloads, bit by bit.

One program takes one block of 16384 values and keeps it in registers.
"""

# Arguments of a jit function are Triton's own values, which Python's types cannot name.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

_BLOCK = tl.constexpr(16384)
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)
_NAN = tl.constexpr(0x7FC00000)
_NAN_RANK = tl.constexpr(0x7F800001)
_HALVED = tl.constexpr(1 << 23)
"""One step of a float's exponent."""


@triton.jit
def topk_encode(
    values,
    residual,
    wire_values,
    wire_places,
    lost,
    count,
    factor,
    kept_whole,
    kept_last,
    row_bytes,
    has_residual: tl.constexpr,
    has_lost: tl.constexpr,
):
    """The largest values of a block, whose least rank is found by bisection.

    At least as many values as are kept reach ``low``, fewer reach ``high``; it ends
    early where exactly as many do. The first probe is half the largest value, since in
    most blocks the least rank lies above. Of the values at it the first ones are taken.
    """
    block = tl.program_id(0).to(tl.int64)
    start = block * _BLOCK
    left = tl.minimum(count - start, _BLOCK).to(tl.int32)
    lane = tl.arange(0, _BLOCK)
    inside = lane < left
    x = tl.load(values + start + lane, mask=inside, other=0.0) * factor
    if has_residual:
        x = x + tl.load(residual + start + lane, mask=inside, other=0.0)
    rank = tl.minimum(x.to(tl.int32, bitcast=True) & _MAGNITUDE, _NAN_RANK)
    rank = tl.where(inside, rank, -1)
    kept = tl.where(left < _BLOCK, kept_last, kept_whole)
    low = tl.full((), 0, tl.int32)
    high = tl.max(rank, axis=0) + 1
    reach = left
    probe = tl.maximum(high - _HALVED, 1)
    while (high - low > 1) & (reach != kept):
        reached = tl.sum((rank >= probe).to(tl.int32), axis=0)
        enough = reached >= kept
        low = tl.where(enough, probe, low)
        high = tl.where(enough, high, probe)
        reach = tl.where(enough, reached, reach)
        probe = low + (high - low) // 2
    threshold = low
    # the values still undecided lie at the threshold, unless exactly enough reach it
    exactly = reach == kept
    above = tl.where(exactly, rank >= threshold, rank > threshold)
    equal = (rank == threshold) & (above == 0)
    counts = tl.cumsum(above.to(tl.int32) | (equal.to(tl.int32) << 16), axis=0)
    missing = kept - tl.sum(above.to(tl.int32), axis=0)
    taken_equal = counts >> 16
    sent = above | (equal & (taken_equal <= missing))
    slot = (counts & 0xFFFF) + tl.minimum(taken_equal, missing) - 1
    exact = x + 0.0  # adding 0.0 turns -0.0 into 0.0
    nan = tl.full((_BLOCK,), _NAN, tl.int32).to(tl.float32, bitcast=True)
    exact = tl.where(x == x, exact, nan)
    row = block * row_bytes
    tl.store(wire_values + row // 4 + slot, exact, mask=sent)
    first_place = (row + 4 * kept) // 2
    tl.store(wire_places + first_place + slot, lane.to(tl.int16), mask=sent)
    if kept % 2 == 1:
        tl.store(wire_places + first_place + kept, tl.full((), 0, tl.int16))
    if has_lost:
        tl.store(lost + start + lane, x - tl.where(sent, exact, 0.0), mask=inside)


@triton.jit(do_not_specialize=["stride"])
def topk_decode(
    wire_values,
    wire_places,
    stride,
    workers,
    out,
    count,
    inverse,
    kept_whole,
    kept_last,
    row_bytes,
    mean: tl.constexpr,
    most: tl.constexpr,
):
    """Zeros, then each worker's values added at their places, in the workers' order.

    Args:
        most: a power of two that is at least what a block sends.
    """
    block = tl.program_id(0).to(tl.int64)
    out += block * _BLOCK
    left = tl.minimum(count - block * _BLOCK, _BLOCK).to(tl.int32)
    places = tl.arange(0, _BLOCK)
    inside = places < left
    tl.store(out + places, tl.zeros((_BLOCK,), tl.float32), mask=inside)
    kept = tl.where(left < _BLOCK, kept_last, kept_whole)
    slot = tl.arange(0, most)
    sent = slot < kept
    for worker in range(workers):
        tl.debug_barrier()  # another thread may now read a place that this one wrote
        row = worker * stride.to(tl.int64) + block * row_bytes
        x = tl.load(wire_values + row // 4 + slot, mask=sent, other=0.0)
        place = tl.load(wire_places + (row + 4 * kept) // 2 + slot, mask=sent, other=0)
        place = place.to(tl.int32) & 0xFFFF
        to = out + place
        if worker > 0:
            x = tl.load(to, mask=sent, other=0.0) + x
        tl.store(to, x, mask=sent)
    if mean:
        tl.debug_barrier()
        total = tl.load(out + places, mask=inside, other=0.0)
        tl.store(out + places, total * inverse, mask=inside)
