"""Medians of what was timed in turn, and how far apart the rounds lie."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles


def spread(values: Sequence[float]) -> float:
    """Half the distance between the quartiles; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / 2


def middle(values: Sequence[float]) -> tuple[float, float]:
    """The median, and half the distance between the quartiles."""
    return median(values), spread(values)
