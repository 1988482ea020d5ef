"""Seeds of stochastic codecs, from integers on the host."""

from __future__ import annotations

from dathvd.noise import hash_word


def mix(*parts: int) -> int:
    """A 63-bit hash of integers, the same on every rank and platform."""
    return hash_word(*parts) >> 1
