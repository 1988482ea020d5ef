"""One rank of a sweep's launch: ``python -m dathvd.benchmark.speedup.worker PLAN OUT``.

All points live in one group of processes and take their steps in turn, round after
round, each round in another order: what the machine does meanwhile meets all alike.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

from dathvd.benchmark.rows import LOCAL, Row
from dathvd.benchmark.speedup.plan import PLAIN, Plan, Point
from dathvd.ranks import launched_rank

_PARTS = ("data", "attack")


def main() -> None:
    """Measure the plan's points; rank 0 writes the rows."""
    plan = Plan.load(Path(sys.argv[1]))
    if plan.pin:
        _pin()

    from dathvd.runtime import guard, start

    runtime = start(plan.config.train.device)
    with guard(runtime):
        rows = measure(plan, runtime)
    if runtime.is_root:
        from dathvd.files import write_json

        write_json(Path(sys.argv[2]), [asdict(row) for row in rows])


def _pin() -> None:
    """Keep this rank, and every thread that it will start, on its own cores."""
    cores = sorted(os.sched_getaffinity(0))
    count = min(len(cores), max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    first = launched_rank() * count % len(cores)
    own = {cores[(first + place) % len(cores)] for place in range(count)}
    os.sched_setaffinity(0, own)


def measure(plan: Plan, runtime: Any) -> list[Row]:
    """Rows of all points; every rank calls it, rank 0's rows are complete."""
    import horovod.torch as hvd

    from dathvd.benchmark.speedup.measure import Runner, agree_to_go_on, num_values
    from dathvd.data import build_augmentation, load_dataset
    from dathvd.training.batches import BatchPlan

    config = plan.config
    dataset = load_dataset(config.data)
    batches = BatchPlan(
        images=dataset.train,
        batch_size=config.train.batch_size,
        passes=1,
        rank=runtime.rank,
        size=runtime.size,
        seed=config.seed,
        augment=build_augmentation(config.data),
        device=runtime.device,
    )
    points = [Point(LOCAL, "none", "none"), *plan.points]
    runners = [Runner.build(point, config, dataset, batches) for point in points]
    samples: list[list[Any]] = [[] for _ in runners]
    began = time.perf_counter()

    def go_on() -> bool:
        late = time.perf_counter() - began > plan.seconds
        return len(samples[0]) < plan.repeats and not (late and len(samples[0]) >= 3)

    for warming in range(plan.warmup):
        for runner in runners:
            runner.sample()
    began, turn = time.perf_counter(), 0
    while agree_to_go_on(go_on):
        turn += 1
        for place in range(len(runners)):
            index = (place + turn) % len(runners)
            samples[index].append(runners[index].sample())
    everyone = hvd.allgather_object(samples, name="benchmark.samples")
    hosts = hvd.allgather_object(socket.gethostname(), name="benchmark.hosts")
    values = num_values(runners[0].trainer.model)
    shape = _Shape(plan, runtime, len(set(hosts)), values)
    local = _critical([rank[0] for rank in everyone])
    compute = median(sample.total for sample in local)
    return [
        shape.row(runner, [rank[index] for rank in everyone], compute)
        for index, runner in enumerate(runners)
    ]


class _Shape:
    """What the rows of one launch have in common."""

    def __init__(self, plan: Plan, runtime: Any, hosts: int, values: int) -> None:
        self.plan, self.runtime, self.hosts, self.values = plan, runtime, hosts, values

    def row(self, runner: Any, ranks: list[list[Any]], compute: float) -> Row:
        """One point's row."""
        from dathvd.benchmark.step import spread

        plan, runtime, size = self.plan, self.runtime, self.runtime.size
        steps = _critical(ranks)
        totals = [step.total for step in steps]
        sent = fmean(sample.sent for rank in ranks for sample in rank)
        exposed = median(step.exposed for step in steps)
        if runner.point.codec == PLAIN:  # it keeps no ledger
            sent = 2 * (size - 1) / size * 4 * self.values
            exposed = max(0.0, median(totals) - compute)
        data, attack = (median(getattr(s, part) for s in steps) for part in _PARTS)
        kernel = fmean(sample.kernel for rank in ranks for sample in rank)
        alone = self.hosts == size > 1
        return Row(
            num_workers=size,
            codec=runner.point.codec,
            exchange=runner.point.exchange,
            overlap=runner.point.overlap,
            batch_size_per_worker=plan.config.train.batch_size // size,
            step_seconds=median(totals),
            step_spread=spread(totals),
            compute_seconds=compute,
            data_seconds=data,
            attack_seconds=attack,
            update_seconds=median(totals) - exposed - data - attack,
            exposed_seconds=exposed,
            bytes_sent=sent,
            kernel_bytes=kernel if alone else None,
            traffic=ranks[0][0].traffic if size > 1 else {},
            num_steps=len(steps),
            hosts=self.hosts,
            oversubscribed=oversubscribed(
                plan.shared_machine, size, runtime.local_size, runtime.num_threads
            ),
            device=runtime.device.type,
            rate=plan.rate,
        )


def _critical(ranks: list[list[Any]]) -> list[Any]:
    """Of each step, the sample of the rank that the others waited for.

    It waits least itself; what it waits is communication and not others' lateness.
    """
    return [min(step, key=lambda s: (s.exposed, -s.total)) for step in zip(*ranks)]


def oversubscribed(
    shared_machine: bool, size: int, local_size: int, num_threads: int
) -> bool:
    """Whether more compute threads run than there are cores."""
    together = size if shared_machine else local_size
    return together * num_threads > (os.cpu_count() or 1)


if __name__ == "__main__":
    main()
