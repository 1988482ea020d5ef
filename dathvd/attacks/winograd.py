"""Winograd's minimal filtering for the attack: weights transformed once an attack."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dathvd.winograd import convolve, fills_patches, native, num_patches, room
from dathvd.winograd import transform as write_transformed

_FEWEST = 8
"""Patches below which reading the transformed weights costs more than it saves."""


class WinogradConv2d(nn.Module):
    """A convolution that ``suits``; its weights get no gradient.

    Args:
        layer: whose shape it has.
        dtype: of images and factors, float32 or bfloat16.
    """

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = torch.empty(layer.weight.shape)
        self.bias: Tensor | None = None
        self.transformed = room(layer.weight, dtype)
        self.adjoint = room(layer.weight, dtype)
        self._is_transformed = False

    def set(self, weight: Tensor, bias: Tensor | None) -> None:
        """Take new weights ``[out, in, 3, 3]`` and a bias ``[out]``."""
        self.weight, self.bias = weight.contiguous(), bias
        self._is_transformed = False

    def forward(self, images: Tensor) -> Tensor:
        """``[N, in, H, W]`` to ``[N, out, H, W]``."""
        if torch.is_autocast_enabled("cpu"):
            images = images.to(self.dtype)
        if not (
            images.dtype is self.dtype
            and native.takes(images)
            and fills_patches(images)
            and num_patches(images) >= _FEWEST
        ):
            # where weights are most of what is read, oneDNN is slower in channels last
            images = images.contiguous()
            return F.conv2d(images, self.weight, self.bias, padding=1)
        if not self._is_transformed:
            write_transformed(self.weight, self.transformed)
            write_transformed(self.weight, self.adjoint, adjoint=True)
            self._is_transformed = True
        found: Tensor = _Convolution.apply(
            images, self.transformed, self.adjoint, self.bias, len(self.weight)
        )  # type: ignore[no-untyped-call]
        return found


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weights: Tensor,
        adjoint: Tensor,
        bias: Tensor | None,
        channels: int,
    ) -> Tensor:
        ctx.adjoint, ctx.channels = adjoint, images.shape[1]
        return convolve(images, weights, bias, channels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found = convolve(gradients[0], ctx.adjoint, None, ctx.channels)
        return found, None, None, None, None
