"""The fused loops of sign, int8 and int4 for CUDA tensors.

The same formats, the same order of every sum and the same random bits as on a CPU, so
that payloads are equal bit by bit; no product is fused into a sum.
Started by ``triton_calls``. The tests run them in Triton's interpreter and compile them
for CUDA; on a GPU itself they run where the tests find one.
"""

# Arguments of a jit function are Triton's own values, which Python's types cannot name.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

_BLOCK = tl.constexpr(512)
_HALF = tl.constexpr(256)
_GROUPS = tl.constexpr(32)
_LANES = tl.constexpr(16)
_WORDS = tl.constexpr(17)
_INFINITY = tl.constexpr(0x7F800000)
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)
_NAN = tl.constexpr(0x7FC00000)
_LEAST_SCALE = tl.constexpr(2.0**-110)


@triton.jit
def _corrected(values, residual, places, inside, factor, has_residual: tl.constexpr):
    """values * factor + residual, 0 outside."""
    inputs = tl.load(values + places, mask=inside, other=0.0) * factor
    if has_residual:
        inputs = inputs + tl.load(residual + places, mask=inside, other=0.0)
    return inputs


@triton.jit
def sign_encode(
    values,
    residual,
    wire,
    lost,
    count,
    factor,
    inverse_last,
    has_residual: tl.constexpr,
    has_lost: tl.constexpr,
    tile: tl.constexpr,
    unroll: tl.constexpr,
):
    """One program, ``tile`` blocks: sums and words lane by lane, then what is lost.

    ``unroll`` groups of lanes are loaded at once, to keep the memory busy.
    """
    first_block = tl.program_id(0).to(tl.int64) * tile
    start = first_block * _BLOCK
    values += start
    residual += start
    lost += start
    left = tl.minimum(count - start, tile * _BLOCK).to(tl.int32)
    rows = tl.arange(0, tile)[:, None]
    lanes = tl.arange(0, _LANES)[None, :]
    first = rows * _BLOCK + lanes
    sums = tl.zeros((tile, _LANES), tl.float32)
    words = tl.zeros((tile, _LANES), tl.uint32)
    for groups in range(0, _GROUPS, unroll):
        for part in tl.static_range(unroll):
            group = groups + part
            places = first + group * _LANES
            inside = places < left
            x = _corrected(values, residual, places, inside, factor, has_residual)
            pattern = x.to(tl.uint32, bitcast=True)
            sums += (pattern & _MAGNITUDE).to(tl.float32, bitcast=True)
            words |= (pattern >> 31) << group
    eight = tl.sum(tl.reshape(sums, (tile, 2, 8)), axis=1)
    four = tl.sum(tl.reshape(eight, (tile, 2, 4)), axis=1)
    two = tl.sum(tl.reshape(four, (tile, 2, 2)), axis=1)
    total = tl.sum(two, axis=1)[:, None]
    last = (rows + 1) * _BLOCK > left
    last = last & (start + left == count)
    scale = (total * tl.where(last, inverse_last, 1.0 / _BLOCK)).to(tl.float32)
    scale_bits = scale.to(tl.uint32, bitcast=True)
    finite = (scale_bits & _INFINITY) != _INFINITY
    scale_bits = tl.where(finite, scale_bits, _NAN).to(tl.uint32)
    words = tl.where(finite, words, 0)
    exists = rows * _BLOCK < left
    wire += first_block * _WORDS
    tl.store(wire + rows * _WORDS, scale_bits.to(tl.int32, bitcast=True), mask=exists)
    to = wire + rows * _WORDS + 1 + lanes
    tl.store(to, words.to(tl.int32, bitcast=True), mask=exists)
    if has_lost:
        for groups in range(0, _GROUPS, unroll):
            for part in tl.static_range(unroll):
                group = groups + part
                places = first + group * _LANES
                inside = places < left
                x = _corrected(values, residual, places, inside, factor, has_residual)
                sign = (words << (31 - group)) & 0x80000000
                decoded = (sign | scale_bits).to(tl.float32, bitcast=True)
                tl.store(lost + places, x - decoded, mask=inside)


@triton.jit(do_not_specialize=["stride"])
def sign_decode(wires, stride, workers, out, count, inverse, mean: tl.constexpr):
    """One program, one block; the sum runs over the workers in order."""
    block = tl.program_id(0).to(tl.int64)
    groups = tl.arange(0, _GROUPS)[:, None]
    lanes = tl.arange(0, _LANES)[None, :]
    total = tl.zeros((_GROUPS, _LANES), tl.float32)
    for worker in range(workers):
        row = wires + worker * stride.to(tl.int64) + block * _WORDS
        scale = tl.load(row).to(tl.uint32, bitcast=True)
        words = tl.load(row + 1 + lanes).to(tl.uint32, bitcast=True)
        sign = (words << (31 - groups).to(tl.uint32)) & 0x80000000
        decoded = (sign | scale).to(tl.float32, bitcast=True)
        total = tl.where(worker == 0, decoded, total + decoded)
    if mean:
        total = total * inverse
    places = block * _BLOCK + groups * _LANES + lanes
    tl.store(out + places, total, mask=places < count)


@triton.jit
def _hashed(counter, key_1, key_2):
    """32 random bits for each counter; see ``random_bits``."""
    x = counter ^ key_1
    x = (x ^ (x >> 16)) * 0x21F0AAAD
    x = (x ^ (x >> 15)) + key_2
    x = x * 0xD35A2D97
    return x ^ (x >> 15)


@triton.jit
def _rounded(x, steps, bits, sent, levels: tl.constexpr):
    """The level of each value, 0 where nothing is sent."""
    scaled = tl.where(sent, x * steps, 0.0).to(tl.int32)
    level = (scaled + bits.to(tl.int32)) >> 16
    level = tl.minimum(tl.maximum(level, -levels), levels)
    return tl.where(sent, level, 0)


@triton.jit(do_not_specialize=["first_block", "key_1", "key_2"])
def quantize_encode(
    values,
    residual,
    codes,
    scales,
    lost,
    count,
    factor,
    first_block,
    key_1,
    key_2,
    has_residual: tl.constexpr,
    has_lost: tl.constexpr,
    width: tl.constexpr,
    levels: tl.constexpr,
    row_bytes: tl.constexpr,
):
    """One program, one block, in two halves that share their hashes."""
    block = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, _HALF)
    low_places = block * _BLOCK + lane
    high_places = low_places + _HALF
    low_inside = low_places < count
    high_inside = high_places < count
    low = _corrected(values, residual, low_places, low_inside, factor, has_residual)
    high = _corrected(values, residual, high_places, high_inside, factor, has_residual)
    low_bits = low.to(tl.int32, bitcast=True) & _MAGNITUDE
    high_bits = high.to(tl.int32, bitcast=True) & _MAGNITUDE
    most = tl.max(tl.maximum(low_bits, high_bits), axis=0).to(tl.float32, bitcast=True)
    scale = most * (1.0 / levels)
    finite = (scale.to(tl.int32, bitcast=True) & _INFINITY) != _INFINITY
    sent = finite & (scale >= _LEAST_SCALE)
    top = tl.full((), levels, tl.float32)
    steps = tl.div_rn(top, tl.where(sent, most, 1.0)) * 65536.0
    scale_bits = tl.where(sent, scale, 0.0).to(tl.int32, bitcast=True)
    scale_bits = tl.where(finite, scale_bits, _NAN).to(tl.int32)
    scale = scale_bits.to(tl.float32, bitcast=True)
    counter = ((first_block + block) * _HALF + lane).to(tl.uint32)
    random = _hashed(counter, key_1.to(tl.uint32), key_2.to(tl.uint32))
    low_level = _rounded(low, steps, random & 0xFFFF, sent, levels)
    high_level = _rounded(high, steps, random >> 16, sent, levels)
    row = codes + block * row_bytes + 4 + lane
    tl.store(scales + block * (row_bytes // 4), scale)
    if width == 8:
        tl.store(row, low_level.to(tl.uint8))
        tl.store(row + _HALF, high_level.to(tl.uint8))
    else:
        tl.store(row, ((low_level + 8) | ((high_level + 8) << 4)).to(tl.uint8))
    if has_lost:
        low_lost = low - low_level.to(tl.float32) * scale
        high_lost = high - high_level.to(tl.float32) * scale
        tl.store(lost + low_places, low_lost, mask=low_inside)
        tl.store(lost + high_places, high_lost, mask=high_inside)


@triton.jit(do_not_specialize=["stride"])
def quantize_decode(
    codes,
    scales,
    stride,
    workers,
    out,
    count,
    inverse,
    mean: tl.constexpr,
    width: tl.constexpr,
    row_bytes: tl.constexpr,
):
    """One program, one block; the sum runs over the workers in order."""
    block = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, _HALF)
    low = tl.zeros((_HALF,), tl.float32)
    high = tl.zeros((_HALF,), tl.float32)
    for worker in range(workers):
        row = codes + worker * stride.to(tl.int64) + block * row_bytes + 4 + lane
        scale = tl.load(
            scales + worker * (stride.to(tl.int64) // 4) + block * (row_bytes // 4)
        )
        if width == 8:
            low_level = tl.load(row).to(tl.int8, bitcast=True).to(tl.float32)
            high_level = tl.load(row + _HALF).to(tl.int8, bitcast=True).to(tl.float32)
        else:
            pair = tl.load(row).to(tl.int32)
            low_level = ((pair & 15) - 8).to(tl.float32)
            high_level = ((pair >> 4) - 8).to(tl.float32)
        low_part = low_level * scale
        high_part = high_level * scale
        low = tl.where(worker == 0, low_part, low + low_part)
        high = tl.where(worker == 0, high_part, high + high_part)
    if mean:
        low = low * inverse
        high = high * inverse
    places = block * _BLOCK + lane
    tl.store(out + places, low, mask=places < count)
    tl.store(out + places + _HALF, high, mask=places + _HALF < count)
