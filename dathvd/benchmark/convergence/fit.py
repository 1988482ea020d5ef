"""Running averages, the power laws that they follow, and means over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_POINTS = 3
"""Points that a line and its error need."""


@dataclass(frozen=True)
class Measured:
    """A number and its standard error."""

    value: float
    error: float | None
    """None where nothing tells of it."""

    def __str__(self) -> str:
        error = "" if self.error is None else f" ± {self.error:.2g}"
        return f"{self.value:.3g}{error}"


def running_averages(values: Sequence[float]) -> list[float]:
    """The mean of the first 1, 2, 3, … values."""
    found, total = [], 0.0
    for count, value in enumerate(values, 1):
        total += value
        found.append(total / count)
    return found


def rate(steps: Sequence[int], averages: Sequence[float]) -> Measured | None:
    """c of ``average ~ steps ** -c``: least squares on both logarithms.

    The error is that of independent points, which a running average's are not: over
    seeds it is better taken from theirs.

    Args:
        steps: above 0.
        averages: of the same number; those that are not above 0 are left out.

    Returns:
        None for fewer than ``LEAST_POINTS`` points.
    """
    pairs = zip(steps, averages, strict=True)
    points = [(math.log(t), math.log(value)) for t, value in pairs if value > 0]
    if len(points) < LEAST_POINTS:
        return None
    xs, ys = zip(*points, strict=True)
    slope, start = statistics.linear_regression(xs, ys)
    left = sum((y - start - slope * x) ** 2 for x, y in points)
    middle = statistics.fmean(xs)
    spread = sum((x - middle) ** 2 for x in xs)
    error = math.sqrt(left / (len(points) - 2) / spread)
    return Measured(-slope, error)


def over_seeds(values: Sequence[float]) -> Measured:
    """The mean, and its error where there are several."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Measured(mean, None)
    return Measured(mean, statistics.stdev(values) / math.sqrt(len(values)))


def rate_over_seeds(found: Sequence[Measured | None]) -> Measured | None:
    """The mean rate; None unless every seed has one."""
    rates = [each for each in found if each is not None]
    if not rates or len(rates) < len(found):
        return None
    return rates[0] if len(rates) == 1 else over_seeds([each.value for each in rates])
