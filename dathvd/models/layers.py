"""The layers that the networks choose by configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dathvd.config import ModelConfig
from dathvd.errors import choose

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
}

NORMALIZATIONS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(_num_groups(channels), channels),
}


def _num_groups(channels: int, most: int = 8) -> int:
    """The largest divisor of ``channels`` that is at most ``most``."""
    return max(count for count in range(1, most + 1) if channels % count == 0)


@dataclass(frozen=True)
class Layers:
    """Makes a network's normalisation and activation layers."""

    normalization: str
    activation: str

    def norm(self, channels: int) -> nn.Module:
        """A new normalisation layer for ``[batch, channels, height, width]``."""
        return choose("model.normalization", self.normalization, NORMALIZATIONS)(
            channels
        )

    def act(self) -> nn.Module:
        """A new activation layer."""
        return choose("model.activation", self.activation, ACTIVATIONS)()


def layers_of(
    config: ModelConfig, normalization: str, activation: str = "relu"
) -> Layers:
    """The configured layers, or those named here where it leaves them open."""
    return Layers(
        config.normalization or normalization, config.activation or activation
    )


class Normalize(nn.Module):
    """``(images - mean) / std`` per channel, as a network's first layer.

    Args:
        mean: one value per channel, in pixel units of [0, 1].
        std: one value per channel, above 0, in the same units.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        normalized: Tensor = (images - self.mean) / self.std
        return normalized
