"""Bytes a worker sends for ResNet-50, small tensors and scales included.

The buckets are laid out on the meta device, which holds no values: what they would
hand to Horovod is counted, which the parallel tests hold against what they do hand.
"""

from __future__ import annotations

import pytest
import torch

from dathvd.compression import COMPRESSORS
from dathvd.config.model import ModelConfig
from dathvd.distributed.buckets import plan_buckets
from dathvd.distributed.exchange_choice import Carriage
from dathvd.distributed.ledger import Ledger
from dathvd.distributed.placement import Placement
from dathvd.distributed.wire import Wire
from dathvd.models import build_model

SIZES = (2, 3, 4, 8, 16)
NUM_VALUES = 25_557_032


@pytest.fixture(scope="module")
def named() -> list[tuple[str, torch.Tensor]]:
    """ResNet-50's parameters, without values."""
    with torch.device("meta"):
        model = build_model(
            ModelConfig(name="resnet50"), image_shape=(3, 224, 224), num_classes=1000
        )
    return list(model.named_parameters())


def mean_sent(
    named: list[tuple[str, torch.Tensor]], codec: str, exchange: str, size: int
) -> float:
    """Bytes sent a worker and step, averaged over the workers."""
    compressor, total = COMPRESSORS[codec](), 0.0
    for rank in range(size):
        wire = Wire(rank, size, Ledger(), "test")
        alone = Placement(rank, tuple((each,) for each in range(size)))
        carriage = Carriage(compressor, exchange, wire, 1.0, 0, alone)
        total += sum(each.sent_bytes() for each in carriage.of(plan_buckets(named)))
    return total / size


@pytest.mark.parametrize(
    ("codec", "exchange", "most"),
    [
        ("none", "allreduce", 1.0),
        ("none", "two-way", 1.0),
        ("fp16", "allreduce", 0.502),
        ("bf16", "two-way", 0.502),
        ("int8", "two-way", 0.27),
        ("int4", "two-way", 0.14),
        ("sign", "two-way", 1 / 25),
        ("topk", "two-way", 0.03),
    ],
)
def test_share_of_the_ring_for_any_number_of_workers(
    named: list[tuple[str, torch.Tensor]], codec: str, exchange: str, most: float
) -> None:
    assert sum(parameter.numel() for _, parameter in named) == NUM_VALUES
    shares = [
        mean_sent(named, codec, exchange, size) / (8 * NUM_VALUES * (size - 1) / size)
        for size in SIZES
    ]
    assert max(shares) <= most * (1 + 1e-9), shares
    assert max(shares) - min(shares) <= 1e-9 * max(shares), shares
