"""Codecs on a GPU give the CPU's bits, whichever way they take there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dathvd.compression import COMPRESSORS
from dathvd.compression.base import Compressor
from tests.gpu.steps import CUDA
from tests.single.compression_inputs import vector

EXACT = ["none", "fp16", "bf16", "int8", "int4", "sign", "topk"]
SIZES = [1, 513, 16_384, 1_000_003]


def bits(values: Tensor) -> Tensor:
    values = values.cpu()
    return torch.where(values.isnan(), torch.nan, values).view(torch.int32)


def encoded(codec: Compressor, values: Tensor, residual: Tensor) -> tuple[Tensor, ...]:
    size = codec.payload_bytes(values.numel())
    wire = torch.empty(size, dtype=torch.uint8, device=values.device)
    lost = torch.empty_like(values)
    codec.encode(values, residual, wire, lost, seed=5, scale=0.5)
    wires = torch.stack([wire, wire])
    mean = torch.empty_like(values)
    codec.decode_mean(wires, mean)
    return wire.cpu(), bits(lost), bits(mean)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", EXACT)
def test_the_cpus_bits(name: str, size: int) -> None:
    codec = COMPRESSORS[name]()
    for kind in ("normal", "heavy tail", "zero"):
        values, residual = vector(kind, size), vector("normal", size, 5)
        ours = encoded(codec, values.to(CUDA), residual.to(CUDA))
        for found, expected in zip(ours, encoded(codec, values, residual)):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["powersgd", "paper"])
def test_close_to_the_cpu(name: str) -> None:
    codec = COMPRESSORS[name]()
    values = vector("normal", 90_000)
    payload, context = codec.compress(values.to(CUDA), 3)
    found = codec.decompress(payload, context).cpu()
    payload, context = codec.compress(values, 3)
    expected = codec.decompress(payload, context)
    assert (found - expected).norm() < 1e-2 * expected.norm()
