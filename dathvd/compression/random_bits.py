"""Random bits as a pure function of (seed, place): no state, any order, any device.

A 32-bit counter is keyed twice inside a two-round multiply-xorshift finaliser (the
constants are those of Wellons' search for low-bias 32-bit hashes); the two keys are
SplitMix64 (Steele et al., OOPSLA 2014) of the seed. One hash serves two values, 16 bits
each: value j of a block of 512 takes the low half of counter ``j`` for j < 256 and the
high half of counter ``j - 256`` above, counters running on from block to block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dathvd.noise import hash_word

BLOCK = 512
MULTIPLIER_1 = 0x21F0AAAD
MULTIPLIER_2 = 0xD35A2D97
_MASK_32 = (1 << 32) - 1


def keys(seed: int) -> tuple[int, int]:
    """Two 32-bit keys of any integer seed: the low and the high half of its hash."""
    word = hash_word(seed)
    return word & _MASK_32, word >> 32


def random_bits(
    seed: int, first_block: int, blocks: int, device: torch.device
) -> Tensor:
    """Int32 ``[blocks, 512]`` in [0, 65536)."""
    key_1, key_2 = keys(seed)
    half = BLOCK // 2
    first = first_block * half
    bits = torch.arange(first, first + blocks * half, device=device)
    bits = bits.bitwise_xor_(key_1).bitwise_and_(_MASK_32)
    bits = bits.bitwise_xor_(bits >> 16).mul_(MULTIPLIER_1).bitwise_and_(_MASK_32)
    bits = bits.bitwise_xor_(bits >> 15).add_(key_2)
    bits = bits.mul_(MULTIPLIER_2).bitwise_and_(_MASK_32)
    bits = bits.bitwise_xor_(bits >> 15).view(blocks, half)
    return torch.cat((bits & 0xFFFF, bits >> 16), dim=1).to(torch.int32)


def uniforms(seed: int, first_block: int, blocks: int, device: torch.device) -> Tensor:
    """Float32 ``[blocks, 512]``: odd multiples of 2**-17 in (0, 1)."""
    bits = random_bits(seed, first_block, blocks, device)
    return bits.to(torch.float32).add_(0.5).mul_(2.0**-16)
