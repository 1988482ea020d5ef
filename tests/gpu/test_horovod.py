"""Horovod on a GPU: every payload's type through its collectives, and one wait a step.

One rank: its collectives still go the way of NCCL. What more ranks would show needs as
many GPUs, since NCCL gives each rank one of its own.
"""

from __future__ import annotations

import warnings

import pytest
import torch

hvd = pytest.importorskip("horovod.torch", reason="Horovod is not installed")

from dathvd.benchmark.step.trainers import batch_plan, build_trainer  # noqa: E402
from dathvd.compression import COMPRESSORS  # noqa: E402
from dathvd.data import load_dataset  # noqa: E402
from dathvd.distributed import DistributedOptimizer  # noqa: E402
from dathvd.training.step import Trainer  # noqa: E402
from tests.gpu.steps import (  # noqa: E402
    CUDA,
    SMALL,
    configured,
    same_bits,
    train,
    weights_of,
)

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() and not hvd.nccl_built(),
    reason="Horovod was built without NCCL",
)


@pytest.fixture(scope="module", autouse=True)
def one_worker() -> None:
    hvd.init()


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.uint8], ids=str
)
def test_collectives_of_every_payload(dtype: torch.dtype) -> None:
    values = torch.arange(1, 200, device=CUDA).to(dtype)
    name = str(dtype)
    if dtype != torch.uint8:  # codes are never summed
        handle = hvd.allreduce_async_(values.clone(), name=f"sum.{name}", op=hvd.Sum)
        assert torch.equal(hvd.synchronize(handle), values)
    handle = hvd.allgather_async(values, name=f"all.{name}")
    assert torch.equal(hvd.synchronize(handle), values)
    splits = torch.tensor([len(values)], dtype=torch.int32)
    handle = hvd.alltoall_async(values, splits, name=f"turn.{name}")
    received, counts = hvd.synchronize(handle)
    assert torch.equal(received, values) and counts.tolist() == [199]


def trainer(codec: str, exchange: str) -> tuple[Trainer, object]:
    config = configured(*SMALL)
    dataset = load_dataset(config.data)
    built = build_trainer(
        config,
        dataset,
        CUDA,
        lambda optimizer, named: DistributedOptimizer(
            optimizer, named, COMPRESSORS[codec], exchange, bucket_bytes=200_000
        ),
    )
    return built, batch_plan(config, dataset, CUDA)


WAYS = [(name, way) for name, codec in COMPRESSORS.items() for way in codec.exchanges]


@pytest.mark.parametrize("codec,exchange", WAYS)
def test_the_decision_alone_waits(codec: str, exchange: str) -> None:
    built, plan = trainer(codec, exchange)
    train(built, plan, range(2))  # type: ignore[arg-type]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            train(built, plan, range(2, 3))  # type: ignore[arg-type]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = [wait.filename for wait in waits if "synchroniz" in str(wait.message)]
    assert len(places) <= 1, places
    assert all(place.endswith("exchanger.py") for place in places)


@pytest.mark.parametrize("codec,exchange", [("none", "auto"), ("sign", "two-way")])
def test_any_stream_gives_the_same_bits(codec: str, exchange: str) -> None:
    results = []
    for stream in (None, torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            built, plan = trainer(codec, exchange)
            train(built, plan, range(4))  # type: ignore[arg-type]
        torch.cuda.synchronize()
        results.append(weights_of(built))
    assert same_bits(*results)
