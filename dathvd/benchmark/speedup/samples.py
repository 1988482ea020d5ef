"""Rows of a sweep, made from the timed steps of every worker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from dathvd.benchmark.medians import spread
from dathvd.benchmark.speedup.plan import PLAIN, Plan, Point
from dathvd.benchmark.speedup.rows import SweepRow


@dataclass(frozen=True)
class Sample:
    """One step on one worker: seconds of its parts, and bytes sent."""

    data: float
    attack: float
    update: float
    exposed: float
    sent: float
    """Bytes sent, by the ledger."""
    kernel: float
    """Bytes sent, by the kernel's counters."""
    traffic: dict[str, tuple[int, float]]
    """Calls and bytes of each collective."""
    codec: float = 0.0
    """Of them encoding and decoding, during the attack too."""
    background: float = 0.0
    """Processor time of all threads but the one that trains: Horovod's, on CPUs with
    one thread a worker."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Sample:
        """What ``dataclasses.asdict`` made, after a journey as JSON."""
        traffic = values["traffic"].items()
        calls = {name: (count, sent) for name, (count, sent) in traffic}
        return cls(**{**values, "traffic": calls})

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return self.data + self.attack + self.update + self.exposed


Samples = Sequence[Sequence[Sample]]
"""The timed steps of one point: a list for each rank, of the same length on all."""


@dataclass(frozen=True)
class Launch:
    """What the rows of one launch have in common."""

    plan: Plan
    size: int
    local_size: int
    hosts: int
    num_threads: int
    device: str
    num_values: int
    """Number of values of the gradient."""

    def row(self, point: Point, ranks: Samples, compute_seconds: float) -> SweepRow:
        """The row of a point.

        Args:
            point: what was measured; its exchange is chosen, not ``auto``.
            ranks: the point's timed steps.
            compute_seconds: seconds of the step without any communication.
        """
        steps = critical(ranks)
        step_seconds = median(step.total for step in steps)
        data = median(step.data for step in steps)
        attack = median(step.attack for step in steps)
        exposed = median(step.exposed for step in steps)
        sent = fmean(sample.sent for rank in ranks for sample in rank)
        if point.codec == PLAIN:  # it keeps no ledger
            sent = 2 * (self.size - 1) / self.size * 4 * self.num_values
        # a packet that TCP sends twice is in the counters: one such step is no median
        kernel = median(
            fmean(sample.kernel for sample in step) for step in zip(*ranks, strict=True)
        )
        each = self.size // self.hosts
        return SweepRow(
            num_workers=self.size,
            codec=point.codec,
            exchange=point.exchange,
            overlap=point.overlap,
            batch_size_per_worker=self.plan.config.train.batch_size // self.size,
            step_seconds=step_seconds,
            step_spread=spread([step.total for step in steps]),
            compute_seconds=compute_seconds,
            data_seconds=data,
            attack_seconds=attack,
            update_seconds=step_seconds - exposed - data - attack,
            exposed_seconds=exposed,
            codec_seconds=median(step.codec for step in steps),
            background_seconds=median(step.background for step in steps),
            bytes_sent=sent,
            # every worker of a host reads the same counters
            kernel_bytes=kernel / each if self.hosts > 1 else None,
            traffic=ranks[0][0].traffic if self.size > 1 else {},
            num_steps=len(steps),
            hosts=self.hosts,
            oversubscribed=self.oversubscribed(),
            device=self.device,
            rate=self.plan.rate,
        )

    def oversubscribed(self) -> bool:
        """Whether more compute threads run than there are cores."""
        together = self.size if self.plan.shared_machine else self.local_size
        return together * self.num_threads > (os.cpu_count() or 1)


def critical(ranks: Samples) -> list[Sample]:
    """The sample, for each step, of the rank that the others waited for.

    That rank waits least itself: what it waits is communication, not others' lateness.
    """
    return [
        min(step, key=lambda sample: (sample.exposed, -sample.total))
        for step in zip(*ranks, strict=True)
    ]
