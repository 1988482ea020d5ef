"""Random numbers that belong to a sample, not to a worker.

A draw is a pure function of (seed, stream, sample id, position), so that a result does
not depend on how many workers share the batch, nor on its order. The generator is
SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
OOPSLA 2014) evaluated at a counter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_WORD = (1 << 64) - 1
_SHARED = 0x5A
"""Keeps shared draws apart from those of a sample."""


def _signed(value: int) -> int:
    """The 64-bit pattern of ``value`` as torch's signed integer."""
    value &= _WORD
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift(bits: Tensor, count: int) -> Tensor:
    """Logical right shift of int64 bits."""
    return bits.bitwise_right_shift(count).bitwise_and_((1 << (64 - count)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of 64-bit words."""
    bits = bits.bitwise_xor(_shift(bits, 30)).mul_(_signed(_MIX_1))
    bits = bits.bitwise_xor_(_shift(bits, 27)).mul_(_signed(_MIX_2))
    return bits.bitwise_xor_(_shift(bits, 31))


def hash_word(*parts: int) -> int:
    """A 64-bit hash of integers: the same finaliser on the host, chained.

    The same on every rank and platform; a microsecond, where torch would take fifty.
    """
    state = 0
    for part in parts:
        state = (state + part + _GOLDEN) & _WORD
        state = ((state ^ (state >> 30)) * _MIX_1) & _WORD
        state = ((state ^ (state >> 27)) * _MIX_2) & _WORD
        state ^= state >> 31
    return state


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from several integers, such as (seed, epoch, rank)."""
    return hash_word(*parts) & (_WORD >> 1)


def codec_seed(*parts: int) -> int:
    """One 63-bit seed of a stochastic codec, from integers such as (seed, step).

    It takes the high bits of the hash where ``mix_seed`` takes the low ones: a
    codec's draws and a sample's differ also where both are made of equal integers.
    """
    return hash_word(*parts) >> 1


class SampleNoise:
    """Draws for a batch of samples.

    Args:
        seed: any integer, such as ``mix_seed(run_seed, epoch)``.
        sample_ids: int64 ``[batch]``, the samples' places in their data set; the draws
            come on its device.
    """

    def __init__(self, seed: int, sample_ids: Tensor) -> None:
        self._seed = seed
        self._ids = sample_ids

    def uniform(self, shape: torch.Size | tuple[int, ...], stream: int = 0) -> Tensor:
        """Float32 in [0, 1) of ``shape`` = ``[batch, ...]``."""
        count = math.prod(shape[1:])
        keys = _mix(self._ids + _signed(mix_seed(self._seed, stream)))
        steps = torch.arange(1, count + 1, device=self._ids.device)
        bits = _mix(keys[:, None] + steps * _signed(_GOLDEN))
        return _shift(bits, 40).to(torch.float32).mul_(2.0**-24).reshape(shape)

    def shared(self, stream: int) -> int:
        """A 63-bit seed of draws that all samples share, in any batch."""
        return mix_seed(self._seed, stream, _SHARED)

    def select(self, indices: Tensor) -> SampleNoise:
        """The draws of some of the samples, by their int64 places in this batch."""
        return SampleNoise(self._seed, self._ids[indices])

    def of(self, sample_ids: Tensor) -> SampleNoise:
        """The draws of other samples by the same seed."""
        return SampleNoise(self._seed, sample_ids)

    def reseeded(self, seed: int) -> SampleNoise:
        """Other draws for the same samples."""
        return SampleNoise(seed, self._ids)

    def repeat(self, count: int) -> SampleNoise:
        """Draws for ``count`` views of each sample, a sample's beside each other."""
        places = torch.arange(count, device=self._ids.device)
        ids = self._ids[:, None] * count + places
        return SampleNoise(self._seed, ids.flatten())

    def normal(self, shape: torch.Size | tuple[int, ...], stream: int = 0) -> Tensor:
        """Standard normal float32 of ``shape`` (Box and Muller's transform)."""
        radius = self.uniform(shape, 2 * stream + 1_000_003).neg_().add_(1.0)
        angle = self.uniform(shape, 2 * stream + 1_000_004)
        return radius.log_().mul_(-2.0).sqrt_().mul_(angle.mul_(2 * math.pi).cos_())
