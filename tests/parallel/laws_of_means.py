"""Laws of what an exchange computes and sends.

One function a law; every rank runs it, see ``exchange_worker.py``.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import horovod.torch as hvd
import torch
from torch import nn

from dathvd import DistributedOptimizer
from dathvd.compression import Compression, Compressor
from dathvd.distributed.coded import CodedExchange
from tests.parallel.exchange_rig import (
    CODECS,
    COMPRESSED,
    FEEDBACK,
    SHAPES,
    Toy,
    all_states,
    balanced,
    digest,
    distributed,
    gradients,
    owed,
    pairs,
    run,
    same_everywhere,
    true_mean,
)
from tests.parallel.laws import ALONE_AND_TWO, EXCHANGE_LAWS, FEW


@EXCHANGE_LAWS.on(*FEW, "mpi-4")
def means_are_the_same_on_all_ranks() -> None:
    for name, codec, exchange in pairs(CODECS):
        toy = Toy()
        applied = run(toy, distributed(toy, codec, exchange), range(2))
        assert same_everywhere(tuple(digest(means) for means in applied)), name
        for parameter, mean in true_mean(1).items():
            if parameter not in COMPRESSED:
                torch.testing.assert_close(applied[1][parameter].double(), mean)


@EXCHANGE_LAWS.on(*FEW)
def two_way_and_allgather_of_none_equal_allreduce() -> None:
    results = {}
    for exchange in ("allreduce", "two-way", "allgather"):
        toy = Toy()
        results[exchange] = run(
            toy, distributed(toy, CODECS["none"](), exchange), range(1)
        )
    for exchange in ("two-way", "allgather"):
        for name, mean in results["allreduce"][0].items():
            other = results[exchange][0][name]
            if hvd.size() <= 2:
                assert torch.equal(mean, other), (exchange, name)
            torch.testing.assert_close(other.double(), true_mean(0)[name])
            torch.testing.assert_close(mean, other)


@EXCHANGE_LAWS.on(*FEW)
def nothing_is_lost() -> None:
    """Σ applied + owed = Σ true means, for every codec with feedback."""
    steps = range(5)
    for name, codec, exchange in pairs(FEEDBACK):
        toy = Toy()
        optimizer = distributed(toy, codec, exchange)
        applied = run(toy, optimizer, steps)
        left = owed(all_states(optimizer))
        balanced(applied, left, {}, [true_mean(step) for step in steps], name, exchange)
        if name != "fp16":
            assert all(left[parameter].abs().max() > 0 for parameter in COMPRESSED)


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
def seeds_decide() -> None:
    for name in ("int8", "int4"):
        results = []
        for seed in (1, 1, 2):
            toy = Toy()
            optimizer = distributed(toy, CODECS[name](), "two-way", seed=seed)
            results.append([digest(means) for means in run(toy, optimizer, range(2))])
        assert results[0] == results[1] != results[2], name


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
def rounding_is_unbiased_across_workers_and_steps() -> None:
    """The mean of many exchanges of one gradient is that gradient's mean."""
    repeats = 60
    toy = Toy()
    optimizer = distributed(
        toy, Compression.int4(error_feedback=False), "two-way", min_values=2000
    )
    total = torch.zeros(SHAPES["wide"], dtype=torch.float64)
    for _ in range(repeats):
        optimizer.zero_grad()
        toy.backward(gradients(0))
        optimizer.step()
        total += toy.means()["wide"]
    mean, scale = true_mean(0)["wide"], gradients(0)["wide"].abs().max()
    deviation = (total / repeats - mean).abs().mean() / scale
    # one level is 1/7 of a block's maximum; two roundings, averaged over the repeats
    assert deviation < 0.5 / 7 / repeats**0.5, deviation


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
def bucket_size_does_not_matter_to_casts() -> None:
    for name in ("none", "fp16", "bf16"):
        for exchange in CODECS[name]().exchanges:
            results = []
            for bucket_bytes in (4_000, 60_000, 10**7):
                toy = Toy()
                optimizer = distributed(
                    toy, CODECS[name](), exchange, bucket_bytes=bucket_bytes
                )
                results.append(run(toy, optimizer, range(1))[0])
            for other in results[1:]:
                for parameter, mean in results[0].items():
                    if hvd.size() <= 2 or exchange != "allreduce":
                        assert torch.equal(mean, other[parameter]), (name, exchange)
                    torch.testing.assert_close(
                        mean, other[parameter], rtol=2e-3, atol=1e-4
                    )


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
def training_equals_plain_horovod() -> None:
    """Two workers add the same two numbers: equal bits with Horovod's own path."""
    results = []
    for wrap in (DistributedOptimizer, hvd.DistributedOptimizer):
        torch.manual_seed(3)
        network = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()
        )
        network.append(nn.Linear(16 * 36, 10))
        base = torch.optim.Adam(network.parameters(), lr=1e-2)
        optimizer: Any = wrap(base, named_parameters=network.named_parameters())
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        generator = torch.Generator().manual_seed(hvd.rank())
        for _ in range(3):
            images = torch.randn(8, 3, 8, 8, generator=generator)
            optimizer.zero_grad()
            network(images).logsumexp(1).sum().backward()
            optimizer.step()
            schedule.step()
        results.append(list(network.parameters()))
    for mine, plain in zip(*results):
        if hvd.size() <= 2:
            assert torch.equal(mine, plain)
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-6)


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
def other_types_and_layouts_travel() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        toy = Toy().to(dtype)
        optimizer = distributed(toy, CODECS["sign"](), "two-way")
        toy.backward({name: g.to(dtype) for name, g in gradients(0).items()})
        optimizer.step()
        for name, mean in toy.means().items():
            assert mean.dtype == dtype
            got, expected = mean.double(), true_mean(0)[name]
            torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)
    results = []
    for memory_format in (None, torch.channels_last):
        toy = Toy(memory_format)
        optimizer = distributed(toy, CODECS["none"](), "two-way")
        results.append(run(toy, optimizer, range(1))[0])
        deep = toy.get_parameter("deep")
        assert deep.grad is not None and deep.grad.stride() == deep.stride()
    for name, mean in results[0].items():
        assert torch.equal(mean, results[1][name]), name


BETWEEN_BLOCKS = {
    "last": (7, 1000),
    "whole": (64, 24, 3, 3),
    "rest": (20, 64),
    "part": (64, 36),
    "first": (128, 8, 3, 3),
}
"""Shapes whose buckets, filled from the end, hold two parameters of whole blocks of
512, two that share a block between those, and one whose last block is not full."""


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
def a_gradient_is_encoded_where_it_lies_as_in_its_bucket() -> None:
    """In whatever layout, after a warm-up, with every residual that follows."""
    encodes = CodedExchange._encode
    lent: set[int] = set()

    def watched(self: CodedExchange, *arguments: Any) -> None:
        lent.update(self._lent)
        encodes(self, *arguments)

    def outcome(codec: Compressor, exchange: str, layout: Any) -> list[str]:
        toy = Toy(layout, BETWEEN_BLOCKS)
        optimizer = distributed(toy, codec, exchange, warmup_steps=1)
        found = []
        for step in range(4):
            toy.zero_grad(set_to_none=step % 2 == 0)
            toy.backward(gradients(step, shapes=BETWEEN_BLOCKS))
            optimizer.step()
            found.append(digest(toy.means()))
        residuals = {
            f"{each.name} {name}": end.residual
            for each in optimizer.exchanger.exchanges
            for name, end in each.ends().items()
            if end.residual is not None
        }
        return [*found, *residuals, digest(residuals)]

    copied = mock.patch.object(CodedExchange, "_fills_blocks", return_value=False)
    with mock.patch.object(CodedExchange, "_encode", watched):
        for name, codec, exchange in pairs(CODECS):
            for layout in (torch.contiguous_format, torch.channels_last):
                lent.clear()
                direct = outcome(codec, exchange, layout)
                if codec.block == 512 and not codec.per_tensor:
                    assert len(lent) == 3, (name, lent)
                with copied:
                    assert outcome(codec, exchange, layout) == direct, (name, exchange)
