"""What a corruption is, and how one is applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dathvd.components import CORRUPTIONS
from dathvd.noise import SampleNoise

SEVERITIES = (1, 2, 3, 4, 5)
_SMALL = 64
"""Side up to which images have the strengths of CIFAR-10-C."""


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption with its strengths.

    Args:
        apply: from float images ``[batch, C, H, W]`` in [0, 1], a strength and the
            samples' noise to images, which are clamped and rounded down afterwards.
        small: its strengths at severities 1 to 5 in CIFAR-10-C.
        large: those in ImageNet-C.
    """

    apply: Callable[[Tensor, Any, SampleNoise], Tensor]
    small: Sequence[Any]
    large: Sequence[Any]

    def strength(self, side: int, severity: int) -> Any:
        """That of images whose longer side has so many pixels."""
        return (self.small if side <= _SMALL else self.large)[severity - 1]


def corrupt(name: str, severity: int, images: Tensor, noise: SampleNoise) -> Tensor:
    """Corrupted images on the grid of bytes, as the published ones are.

    Args:
        name: of ``dathvd.components.CORRUPTIONS``.
        severity: 1 to 5.
        images: float ``[batch, C, H, W]`` in [0, 1].
        noise: the only source of randomness.
    """
    kind: Corruption = CORRUPTIONS[name]
    strength = kind.strength(max(images.shape[2:]), severity)
    changed = kind.apply(images, strength, noise).clamp(0.0, 1.0)
    # the published code rounds down; its sums are in float64
    return changed.mul(255).add(1e-4).floor().div(255).to(torch.float32)
