"""Timed steps of one point on one worker."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import horovod.torch as hvd
import torch
from torch import Tensor, nn

from dathvd.benchmark.speedup.counters import payload_bytes_sent
from dathvd.benchmark.speedup.plan import PLAIN, Point
from dathvd.benchmark.speedup.rows import LOCAL
from dathvd.benchmark.speedup.samples import Sample
from dathvd.benchmark.step.trainers import Stopwatch, build_trainer
from dathvd.compression import build_compressor
from dathvd.config import Config
from dathvd.data import Dataset
from dathvd.distributed import DistributedOptimizer
from dathvd.distributed.exchange_choice import choose_exchange
from dathvd.distributed.placement import Placement
from dathvd.training.batches import Batch, BatchPlan
from dathvd.training.build import NamedParameters, Wrap
from dathvd.training.step import Trainer

# nothing is to be learnt from random images, and weights must stay finite
_LR = 1e-6


@dataclass
class Runner:
    """A trainer, and a point's place in the data.

    Points that differ in overlap alone share one trainer, which saves the memory of
    a network, its optimizer's state and its residuals.
    """

    point: Point
    trainer: Trainer
    plan: BatchPlan
    watch: Stopwatch
    step: int = 0
    batches: list[Batch] = field(default_factory=list)
    prepared: list[Tensor] = field(default_factory=list)
    """Adversarial images of ``batches``, from the point's last step."""

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

    @classmethod
    def build_all(
        cls, points: Sequence[Point], config: Config, dataset: Dataset, plan: BatchPlan
    ) -> list[Runner]:
        """A runner for each point; every rank calls it."""
        built: dict[tuple[str, str], Runner] = {}
        runners = []
        for point in points:
            key = (point.codec, point.exchange)
            if key not in built:
                built[key] = cls.build(point, config, dataset, plan)
            one = built[key]
            own = replace(one.point, overlap=point.overlap)
            runners.append(cls(own, one.trainer, plan, one.watch))
        return runners

    def sample(self) -> Sample:
        """Take one step and time it; every rank calls it."""
        overlap = self.point.overlap == "attack"
        exchanger = getattr(self.trainer.optimizer, "exchanger", None)
        if exchanger is not None:
            exchanger.ledger.snapshot(reset=True)
        waited_before = vars(self.trainer.optimizer).get("waited", 0.0)
        meet()
        before, others = payload_bytes_sent(), _other_threads_seconds()
        self.watch.start()
        batches = self.batches or self._load()
        following = self._load() if overlap else []
        self.watch.mark("data")
        self.trainer.prepared = self.prepared
        self.trainer.step(batches, _LR, following)
        self.batches, self.prepared = following, self.trainer.prepared
        seconds, others = self.watch.seconds, _other_threads_seconds() - others
        exchanged = seconds.get("exchange", 0.0)
        entries = exchanger.ledger.snapshot() if exchanger is not None else {}
        codec = exchanger.ledger.codec_seconds if exchanger is not None else 0.0
        meet()  # what is still on its way out belongs to this step
        kernel = payload_bytes_sent() - before
        waited = sum(entry["waited_seconds"] for entry in entries.values())
        if self.point.codec == PLAIN:
            waited = vars(self.trainer.optimizer)["waited"] - waited_before
        traffic = _by_collective(entries)
        return Sample(
            data=seconds["data"],
            attack=seconds.get("attack", 0.0),
            update=seconds.get("update", 0.0) + exchanged - waited,
            exposed=waited,
            sent=sum(size for _, size in traffic.values()),
            kernel=kernel,
            traffic=traffic,
            codec=codec,
            background=others,
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
        return point, functools.partial(_plain_horovod, passes)
    codec = build_compressor(
        config.compression.model_copy(update={"name": point.codec})
    )
    chosen = choose_exchange(codec, point.exchange, Placement.here()).name

    def wrap(
        optimizer: torch.optim.Optimizer, named: NamedParameters
    ) -> torch.optim.Optimizer:
        return DistributedOptimizer(
            optimizer,
            named_parameters=named,
            compression=codec,
            exchange=chosen,
            inside_nodes=config.compression.inside_nodes,
            backward_passes_per_step=passes,
            seed=config.seed,
        )

    return replace(point, exchange=chosen), wrap


def _plain_horovod(
    passes: int, optimizer: torch.optim.Optimizer, named: NamedParameters
) -> torch.optim.Optimizer:
    """Horovod's own optimizer; its ``waited`` counts the seconds in synchronize."""
    plain = hvd.DistributedOptimizer(optimizer, named, backward_passes_per_step=passes)
    synchronize = plain.synchronize

    def timed() -> None:
        began = time.perf_counter()
        synchronize()
        plain.waited += time.perf_counter() - began

    plain.waited = 0.0
    plain.synchronize = timed
    wrapped: torch.optim.Optimizer = plain
    return wrapped


def _other_threads_seconds() -> float:
    """Processor time of this process but for the calling thread."""
    return time.process_time() - time.thread_time()


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
    """The number of values of the model's gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
