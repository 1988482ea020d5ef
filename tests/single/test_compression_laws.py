"""Laws that every codec keeps, over inputs of every kind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dathvd.compression import COMPRESSORS, Compressor
from dathvd.compression.base import inverse
from tests.single.compression_inputs import (
    KINDS,
    SIZES,
    codecs,
    decoded,
    encoded,
    vector,
)

ALL = pytest.mark.parametrize("codec", codecs().values(), ids=codecs())
CUTTABLE = [codec for codec in codecs().values() if not codec.per_tensor]
sizes = st.sampled_from(SIZES) | st.integers(1, 6000)
kinds = st.sampled_from(KINDS)
seeds = st.integers(-(2**40), 2**70)
laws = settings(max_examples=30, deadline=None, derandomize=True)


@ALL
@laws
@given(size=sizes, kind=kinds, past=kinds, seed=seeds, scale=st.sampled_from([1, 0.25]))
def test_what_is_decoded_and_what_is_kept_add_up(
    codec: Compressor, size: int, kind: str, past: str, seed: int, scale: float
) -> None:
    values, residual = vector(kind, size, 1), vector(past, size, 2)
    if codec.name == "fp16":  # a format for magnitudes below 65504
        values, residual = (x.clamp(-3e4, 3e4) for x in (values, residual))
    wire, lost = encoded(codec, values, residual, seed, scale)
    total = decoded(codec, wire, size).double() + lost.double()
    whole = values * scale + residual
    # one float32 rounding of the difference, and no more
    bound = 2.0**-24 * lost.double().abs() + 2.0**-150
    assert ((total - whole.double()).abs() <= bound).all()


@ALL
@laws
@given(size=sizes, kind=kinds, seed=seeds)
def test_the_residual_may_take_the_place_of_an_input(
    codec: Compressor, size: int, kind: str, seed: int
) -> None:
    values, residual = vector(kind, size, 1), vector("normal", size, 2)
    wire, lost = encoded(codec, values, residual, seed)
    for place in range(2):
        inputs = [values.clone(), residual.clone()]
        again = torch.empty_like(wire)
        codec.encode(inputs[0], inputs[1], again, inputs[place], seed)
        assert torch.equal(again, wire)
        torch.testing.assert_close(
            inputs[place], lost, rtol=0, atol=0, equal_nan=codec.name == "fp16"
        )


@ALL
@laws
@given(size=sizes, kind=kinds, seed=seeds)
def test_the_same_arguments_give_the_same_payload_of_the_stated_size(
    codec: Compressor, size: int, kind: str, seed: int
) -> None:
    values = vector(kind, size).view(1, -1)
    (payload, *none), context = codec.compress(values, seed)
    assert not none and payload.dtype == torch.uint8
    assert payload.numel() == codec.payload_bytes(size)
    assert payload.numel() % 4 == 0
    assert torch.equal(payload, codec.compress(values, seed)[0][0])
    assert torch.equal(payload, encoded(codec, values.view(-1), seed=seed)[0])
    assert codec.decompress((payload,), context).shape == values.shape


@ALL
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("size", [1, 512, 5000])
@pytest.mark.parametrize("where", ["values", "residual"])
def test_a_non_finite_value_always_surfaces(
    codec: Compressor, bad: float, size: int, where: str
) -> None:
    inputs = {"values": vector("normal", size, 1), "residual": vector("zero", size)}
    inputs[where][size // 3] = bad
    wire, lost = encoded(codec, inputs["values"], inputs["residual"])
    assert not decoded(codec, wire, size).isfinite().all()
    assert not codec.decodes_to_finite(wire)
    mean = torch.empty(size)
    good, _ = encoded(codec, vector("normal", size, 3))
    codec.decode_mean(torch.stack([good, wire]), mean)
    assert not mean.isfinite().all()


@pytest.mark.parametrize("size", [1, 700, 9001])
@pytest.mark.parametrize("name", ["sign", "int8", "int4"])
def test_scales_tell_that_all_is_finite(name: str, size: int) -> None:
    codec = COMPRESSORS[name]()
    values = vector("normal", size)
    assert codec.decodes_to_finite(encoded(codec, values)[0])
    values[size // 2] = torch.finfo(torch.float32).max
    wire = encoded(codec, values)[0]
    assert (
        not codec.decodes_to_finite(wire) or decoded(codec, wire, size).isfinite().all()
    )


@ALL
@pytest.mark.parametrize("size", [1, 700, 9001])
def test_zeros_stay_zeros_and_lose_nothing(codec: Compressor, size: int) -> None:
    wire, lost = encoded(codec, torch.zeros(size))
    assert not decoded(codec, wire, size).any() and not lost.any()


@ALL
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [1, 513, 16385])
def test_the_mean_is_the_sum_in_order_times_the_inverse(
    codec: Compressor, workers: int, size: int
) -> None:
    gap = torch.zeros(workers, codec.payload_bytes(size) + 8, dtype=torch.uint8)
    rows = gap[:, 4:-4]
    total = torch.zeros(size)
    for worker, row in enumerate(rows):
        wire, _ = encoded(codec, vector("normal", size, worker), seed=worker)
        row.copy_(wire)
        total += decoded(codec, wire, size)
    mean = torch.empty(size)
    codec.decode_mean(rows, mean)
    expected = total * inverse(workers)
    torch.testing.assert_close(mean, expected, rtol=0, atol=0)


@pytest.mark.parametrize("codec", CUTTABLE, ids=lambda codec: repr(codec))
@laws
@given(kind=kinds, cuts=st.lists(st.integers(0, 5), max_size=3), rest=sizes, seed=seeds)
def test_a_payload_is_the_payloads_of_its_pieces(
    codec: Compressor, kind: str, cuts: list[int], rest: int, seed: int
) -> None:
    edges = [0]
    for blocks in cuts:
        edges.append(edges[-1] + blocks * codec.block)
    size = edges[-1] + rest
    values = vector(kind, size)
    whole, _ = encoded(codec, values, seed=seed)
    pieces = [
        encoded(codec, values[a:b], seed=seed, offset=a)[0]
        for a, b in zip(edges, [*edges[1:], size])
    ]
    assert torch.equal(torch.cat(pieces), whole)
    for a, b in zip(edges, edges[1:]):
        part = whole[codec.payload_bytes(a) : codec.payload_bytes(b)]
        assert torch.equal(
            decoded(codec, part, b - a), decoded(codec, whole, size)[a:b]
        )


@ALL
def test_an_empty_tensor_passes_through(codec: Compressor) -> None:
    payload, context = codec.compress(torch.zeros(0, 3))
    assert payload[0].numel() == codec.payload_bytes(0) == 0
    assert codec.decompress(payload, context).shape == (0, 3)
