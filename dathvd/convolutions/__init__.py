"""Compiled convolutions for processors, faster than torch's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from dathvd.convolutions import direct, tiles, winograd
from dathvd.convolutions.kernel import (
    CHANNELS,
    NOTHING,
    Fusion,
    Kernel,
    Shape,
    laid_out,
    room,
    shared_room,
)

KERNELS: tuple[Kernel, ...] = (tiles.Tiles(), winograd.Winograd(), direct.Direct())
"""The first one that suits is taken."""


def kernel_for(layer: nn.Module, dtype: torch.dtype = torch.float32) -> Kernel | None:
    """What computes this layer on images of that type; None where torch does.

    Args:
        layer: any layer.
        dtype: of its images.
    """
    fits = (
        type(layer) is nn.Conv2d
        and layer.dilation == (1, 1)
        and layer.padding == tuple(side // 2 for side in layer.kernel_size)
        and layer.padding_mode == "zeros"
        and layer.groups == 1
        and layer.in_channels % CHANNELS == layer.out_channels % CHANNELS == 0
        and layer.weight.dtype is torch.float32
        and layer.weight.device.type == "cpu"
    )
    if not fits:
        return None
    assert isinstance(layer, nn.Conv2d)
    return next((kernel for kernel in KERNELS if kernel.suits(layer, dtype)), None)


def shape_of(layer: nn.Conv2d) -> Shape:
    """Of a layer that some kernel suits."""
    return Shape(
        layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0]
    )


@contextmanager
def direct_sums() -> Iterator[None]:
    """A block in which torch computes all convolutions."""
    with ExitStack() as stack:
        for native in (tiles.native, winograd.native):
            stack.enter_context(native.switched_off())
        yield


__all__ = [
    "NOTHING",
    "Fusion",
    "Kernel",
    "Shape",
    "direct_sums",
    "kernel_for",
    "laid_out",
    "room",
    "shape_of",
    "shared_room",
]
