"""Bytes that a worker sends a step, in closed form, on ResNet-50's parameters."""

from __future__ import annotations

import functools

import pytest
import torch

from dathvd.compression import Compression, Compressor
from dathvd.torchvision_shim import torchvision

WORKERS = pytest.mark.parametrize("workers", [2, 3, 4, 8, 16])


@functools.cache
def resnet_50() -> tuple[int, int]:
    """Values in matrices and kernels, and values in biases and norms."""
    with torch.device("meta"):
        model = torchvision.models.resnet50()
    sizes = [(p.ndim, p.numel()) for p in model.parameters()]
    large = sum(size for dimensions, size in sizes if dimensions > 1)
    return large, sum(size for _, size in sizes) - large


def ring(num_bytes: int, workers: int) -> float:
    """An allreduce by reduce-scatter and allgather."""
    return 2 * num_bytes * (workers - 1) / workers


def two_way(codec: Compressor, num_values: int, workers: int) -> int:
    """The most that any worker sends: chunks to their owners, its own mean to all."""
    blocks = -(-num_values // codec.block)
    edges = [
        min(worker * blocks // workers * codec.block, num_values)
        for worker in range(workers)
    ]
    sizes = [
        codec.payload_bytes(b - a) for a, b in zip(edges, [*edges[1:], num_values])
    ]
    return max(sum(sizes) - own + (workers - 1) * own for own in sizes)


def share_of_fp32(codec: Compressor, workers: int) -> float:
    large, small = resnet_50()
    sent = two_way(codec, large, workers) + ring(4 * small, workers)
    return sent / ring(4 * (large + small), workers)


def test_the_model_is_resnet_50() -> None:
    assert sum(resnet_50()) == 25_557_032


@WORKERS
@pytest.mark.parametrize(
    "codec,limit",
    [
        (Compression.sign(), 1 / 25),
        (Compression.int8(), 0.27),
        (Compression.int4(), 0.14),
        (Compression.topk(density=0.01), 0.03),
        (Compression.bf16(), 0.51),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_share_of_the_fp32_ring(codec: Compressor, limit: float, workers: int) -> None:
    assert share_of_fp32(codec, workers) <= limit


@WORKERS
@pytest.mark.parametrize("name", ["sign", "topk", "int8", "int4"])
def test_bytes_grow_as_the_share_of_the_others(name: str, workers: int) -> None:
    codec = getattr(Compression, name)()
    large, _ = resnet_50()
    closed = 2 * codec.payload_bytes(large) * (workers - 1) / workers
    # chunks differ by a block at most
    most = 2 * workers * codec.payload_bytes(codec.block)
    assert abs(two_way(codec, large, workers) - closed) <= most


@pytest.mark.parametrize("size", [1, 511, 512, 513, 16384, 16385, 1_000_003])
def test_payloads_in_closed_form(size: int) -> None:
    blocks = -(-size // 512)
    whole, rest = divmod(size, 16384)
    kept = max(1, round(0.01 * rest)) if rest else 0
    expected = {
        "none": 4 * size,
        "fp16": 2 * (size + size % 2),
        "bf16": 2 * (size + size % 2),
        "sign": 68 * blocks,
        "int8": 516 * blocks,
        "int4": 260 * blocks,
        "topk": (164 * 4 + 164 * 2) * whole + 4 * kept + 4 * -(-kept // 2),
        "paper": 4 + 4 * -(-size // 4),
    }
    for name, num_bytes in expected.items():
        assert getattr(Compression, name)().payload_bytes(size) == num_bytes, name


def test_powersgd_sends_its_factors() -> None:
    codec = Compression.powersgd(rank=4)
    shapes = [(64, 576), (512, 4608), (10, 512)]
    factors = codec.factors(shapes)
    matrices = torch.randn(factors.num_values)
    left = factors.project(matrices)
    right = factors.back_project(matrices, left)
    assert left.numel() + right.numel() == 4 * sum(map(sum, shapes))
    assert codec.worthwhile((512, 4608)) and not codec.worthwhile((8, 8))
