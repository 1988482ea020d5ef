"""Seeds of stochastic codecs, from integers on the host."""

from __future__ import annotations

_WORD = (1 << 64) - 1


def mix(*parts: int) -> int:
    """A 63-bit hash of integers: SplitMix64's finaliser, chained.

    The same on every rank and platform; a microsecond, where torch would take a
    hundred.
    """
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & _WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _WORD
        state ^= state >> 31
    return state >> 1
