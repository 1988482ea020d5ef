"""Time on a device: events between which nothing else runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

Work = Callable[[], object]


def seconds(work: Work, device: torch.device, repeats: int = 1) -> float:
    """Of one run of ``work``, the mean of ``repeats`` without a pause between them."""
    if device.type != "cuda":
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        return (time.perf_counter() - began) / repeats
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    for _ in range(repeats):
        work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / repeats


def in_turns(
    subjects: Mapping[str, Work],
    device: torch.device,
    *,
    warmup: int,
    rounds: int,
    repeats: int = 1,
) -> dict[str, list[float]]:
    """Seconds of each subject in each round; in a round all take their turn."""
    for work in subjects.values():
        for _ in range(warmup):
            work()
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, work in subjects.items():
            times[name].append(seconds(work, device, repeats))
    return times


class Budget:
    """Seconds that a benchmark may take; what does not fit is left out."""

    def __init__(self, limit: float) -> None:
        self._end = time.monotonic() + limit

    def left(self) -> float:
        """Seconds that are left, 0 when it is spent."""
        return max(0.0, self._end - time.monotonic())
