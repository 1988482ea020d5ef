"""3x3 convolutions with 36 products where 144 were: for the attack on processors.

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016: outputs in
patches of 4x4, by Winograd's minimal filtering F(4x4, 3x3). The weights are transformed
once an attack; rounding errors are about ten times those of the direct sum.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dathvd.native import Native

_PATCH = 4
_CHANNELS = 32
"""Channels of one panel of weights; both numbers of channels are multiples of it."""
native = Native(
    "dathvd.attacks._winograd",
    {"winograd_transform": "ppnnii", "winograd_convolve": "ppppnnnnni"},
)
direct_sums = native.switched_off
"""A block in which all convolutions are summed directly."""


def suits(layer: nn.Module) -> bool:
    """Whether this convolution may run so, where the images' size fits it too."""
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == (3, 3)
        and layer.stride == layer.dilation == (1, 1)
        and layer.padding == (1, 1)
        and layer.padding_mode == "zeros"
        and layer.groups == 1
        and layer.in_channels % _CHANNELS == layer.out_channels % _CHANNELS == 0
        and layer.weight.dtype is torch.float32
        and native.takes(layer.weight)
        and native.target() != "plain"  # slower than torch's direct sum
    )


class WinogradConv2d(nn.Module):
    """A convolution that ``suits``; its weights get no gradient."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        shape = layer.weight.shape
        self.weight = torch.empty(shape)
        self.bias: Tensor | None = None
        size = (_PATCH + 2) ** 2 * shape[0] * shape[1]
        self.transformed = torch.empty(size)
        self.adjoint = torch.empty(size)

    def set(self, weight: Tensor, bias: Tensor | None) -> None:
        """Take new weights ``[out, in, 3, 3]`` and a bias ``[out]``."""
        self.weight, self.bias = weight.contiguous(), bias
        outputs, inputs = weight.shape[:2]
        threads = torch.get_num_threads()
        for to, channels, adjoint in (
            (self.transformed, (inputs, outputs), 0),
            (self.adjoint, (outputs, inputs), 1),
        ):
            native.call(
                "winograd_transform", self.weight, to, *channels, adjoint, threads
            )

    def forward(self, images: Tensor) -> Tensor:
        """``[N, in, H, W]`` to ``[N, out, H, W]``."""
        if not (
            images.dtype is torch.float32
            and native.takes(images)
            and _fills_patches(images)
        ):
            return F.conv2d(images, self.weight, self.bias, padding=1)
        found: Tensor = _Convolution.apply(
            images, self.transformed, self.adjoint, self.bias, len(self.weight)
        )  # type: ignore[no-untyped-call]
        return found


def _fills_patches(images: Tensor) -> bool:
    """Whether at least half of what the patches compute lies in the image."""
    height, width = images.shape[2:]
    whole = -(-height // _PATCH) * -(-width // _PATCH) * _PATCH**2
    return bool(whole <= 2 * height * width)


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
        return _convolve(images, weights, bias, channels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found = _convolve(gradients[0], ctx.adjoint, None, ctx.channels)
        return found, None, None, None, None


def _convolve(
    images: Tensor, weights: Tensor, bias: Tensor | None, channels: int
) -> Tensor:
    count, own, height, width = images.shape
    layout = torch.channels_last
    images = images.contiguous(memory_format=layout)
    out = torch.empty(count, channels, height, width, memory_format=layout)
    sizes = (count, height, width, own, channels)
    threads = torch.get_num_threads()
    native.call("winograd_convolve", images, weights, bias, out, *sizes, threads)
    return out
