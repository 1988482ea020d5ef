"""Timed steps of one point on one worker."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import horovod.torch as hvd
import torch
from torch import nn

from dathvd.benchmark.rows import LOCAL
from dathvd.benchmark.speedup.counters import payload_bytes_sent
from dathvd.benchmark.speedup.plan import PLAIN, Point
from dathvd.benchmark.speedup.samples import Sample
from dathvd.benchmark.trainers import (
    NamedParameters,
    Stopwatch,
    Wrap,
    build_trainer,
)
from dathvd.compression import build_compressor
from dathvd.config import Config
from dathvd.data import Dataset
from dathvd.distributed import DistributedOptimizer
from dathvd.distributed.choice import choose_exchange
from dathvd.training.batches import Batch, BatchPlan
from dathvd.training.step import Trainer

# nothing is to be learnt from random images, and weights must stay finite
_LR = 1e-6


@dataclass
class Runner:
    """A trainer and its place in the data."""

    point: Point
    trainer: Trainer
    plan: BatchPlan
    watch: Stopwatch
    step: int = 0
    batches: list[Batch] = field(default_factory=list)

    @classmethod
    def build(
        cls, point: Point, config: Config, dataset: Dataset, plan: BatchPlan
    ) -> Runner:
        """A fresh network with the point's optimizer; every rank calls it."""
        point, wrap = _resolve(point, config)
        trainer = build_trainer(config, dataset, plan.device, wrap)
        watch = Stopwatch(plan.device)
        trainer.mark = watch.mark
        return cls(point, trainer, plan, watch)

    def sample(self) -> Sample:
        """Take one step and time it; every rank calls it."""
        overlap = self.point.overlap == "attack"
        exchanger = getattr(self.trainer.optimizer, "exchanger", None)
        if exchanger is not None:
            exchanger.ledger.snapshot(reset=True)
        meet()
        before = payload_bytes_sent()
        self.watch.start()
        batches = self.batches or self._load()
        following = self._load() if overlap else []
        self.watch.mark("data")
        self.trainer.step(batches, _LR, following)
        self.batches = following
        seconds = self.watch.seconds
        exchanged = seconds.get("exchange", 0.0)
        entries = exchanger.ledger.snapshot() if exchanger is not None else {}
        meet()  # what is still on its way out belongs to this step
        kernel = payload_bytes_sent() - before
        waited = sum(entry["waited_seconds"] for entry in entries.values())
        traffic = _by_collective(entries)
        return Sample(
            data=seconds["data"],
            attack=seconds.get("attack", 0.0),
            update=seconds["update"] + exchanged - waited,
            exposed=waited,
            sent=sum(size for _, size in traffic.values()),
            kernel=kernel,
            traffic=traffic,
        )

    def _load(self) -> list[Batch]:
        batches = list(self.plan.step(self.step))
        self.step += 1
        return batches


def _resolve(point: Point, config: Config) -> tuple[Point, Wrap | None]:
    """The point with its exchange chosen, and what makes its optimizer."""
    if point.codec == LOCAL:
        return point, None
    passes = config.train.backward_passes_per_step
    if point.codec == PLAIN:
        plain = functools.partial(
            hvd.DistributedOptimizer, backward_passes_per_step=passes
        )
        return point, plain
    codec = build_compressor(
        config.compression.model_copy(update={"name": point.codec})
    )
    chosen = choose_exchange(codec, point.exchange, hvd.size())

    def wrap(
        optimizer: torch.optim.Optimizer, named: NamedParameters
    ) -> torch.optim.Optimizer:
        return DistributedOptimizer(
            optimizer,
            named_parameters=named,
            compression=codec,
            exchange=chosen,
            backward_passes_per_step=passes,
            seed=config.seed,
        )

    return replace(point, exchange=chosen), wrap


def _by_collective(
    entries: dict[str, dict[str, float]],
) -> dict[str, tuple[int, float]]:
    """Calls and bytes of each collective, its codecs added up."""
    found: dict[str, tuple[int, float]] = {}
    for key, entry in entries.items():
        collective = key.partition("/")[0]
        calls, sent = found.get(collective, (0, 0.0))
        found[collective] = (calls + int(entry["calls"]), sent + entry["sent_bytes"])
    return found


def meet() -> None:
    """Wait until every rank is here, without a spin that takes others' cores."""
    handle = hvd.allreduce_async(torch.zeros(1), op=hvd.Sum, name="benchmark.meet")
    while not hvd.poll(handle):
        time.sleep(2e-4)
    hvd.synchronize(handle)


def agree_to_go_on(go_on: Callable[[], bool]) -> bool:
    """Rank 0's answer, on every rank."""
    answer = torch.tensor([int(go_on())])
    return bool(hvd.broadcast(answer, root_rank=0, name="benchmark.go_on").item())


def num_values(model: nn.Module) -> int:
    """Of the gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
