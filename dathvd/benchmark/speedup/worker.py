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
from statistics import median
from typing import TYPE_CHECKING

from dathvd.benchmark.speedup.plan import Plan, Point
from dathvd.benchmark.speedup.rows import LOCAL, SweepRow
from dathvd.ranks import launched_rank

if TYPE_CHECKING:
    from dathvd.benchmark.speedup.measure import Runner
    from dathvd.benchmark.speedup.samples import Sample
    from dathvd.runtime import Runtime

_LEAST_ROUNDS = 3


def main() -> None:
    """Measure the plan's points; rank 0 writes the rows."""
    plan = Plan.load(Path(sys.argv[1]))
    if plan.pin:
        _pin()

    from dathvd.files import write_json
    from dathvd.runtime import guard, start

    runtime = start(plan.config.train.device)
    with guard(runtime):
        rows = measure_plan(plan, runtime)
        if runtime.is_root:
            write_json(Path(sys.argv[2]), [asdict(row) for row in rows])


def _pin() -> None:
    """Keep this rank, and every thread that it will start, on its own cores."""
    cores = sorted(os.sched_getaffinity(0))
    count = min(len(cores), max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    first = launched_rank() * count % len(cores)
    own = {cores[(first + place) % len(cores)] for place in range(count)}
    os.sched_setaffinity(0, own)


def measure_plan(plan: Plan, runtime: Runtime) -> list[SweepRow]:
    """Rows of all points, the step without communication first; a collective."""
    from dathvd.benchmark.speedup.measure import Runner, num_values
    from dathvd.benchmark.speedup.samples import Launch, Sample, critical
    from dathvd.benchmark.step.trainers import batch_plan
    from dathvd.runtime import gather_json
    from dathvd.tasks import load_task

    config = plan.config
    dataset = load_task(config)
    batches = batch_plan(config, dataset, runtime.device, runtime.rank, runtime.size)
    points = [Point(LOCAL, "none", "none"), *plan.points]
    runners = Runner.build_all(points, config, dataset, batches)
    samples = _take_turns(plan, runners)
    mine = [[asdict(sample) for sample in point] for point in samples]
    everyone = [
        [[Sample.from_dict(each) for each in point] for point in rank]
        for rank in gather_json(mine, "benchmark.samples", runtime.size)
    ]
    hosts = gather_json(socket.gethostname(), "benchmark.hosts", runtime.size)
    launch = Launch(
        plan,
        runtime.size,
        runtime.local_size,
        len(set(hosts)),
        runtime.num_threads,
        runtime.device.type,
        num_values(runners[0].trainer.model),
    )
    local = critical([rank[0] for rank in everyone])
    compute = median(sample.total for sample in local)
    return [
        launch.row(runner.point, [rank[index] for rank in everyone], compute)
        for index, runner in enumerate(runners)
    ]


def _take_turns(plan: Plan, runners: list[Runner]) -> list[list[Sample]]:
    """Timed steps of each runner, one a round."""
    from dathvd.benchmark.speedup.measure import agree_to_go_on

    samples: list[list[Sample]] = [[] for _ in runners]
    for _ in range(plan.warmup):
        for runner in runners:
            runner.sample()
    began = time.perf_counter()

    def go_on() -> bool:
        rounds = len(samples[0])
        late = time.perf_counter() - began > plan.seconds
        return rounds < plan.repeats and not (late and rounds >= _LEAST_ROUNDS)

    while agree_to_go_on(go_on):
        turn = len(samples[0])
        for place in range(len(runners)):
            index = (place + turn) % len(runners)
            samples[index].append(runners[index].sample())
    return samples


if __name__ == "__main__":
    main()
