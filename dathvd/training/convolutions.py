"""Convolutions of the training passes on processors, by the compiled kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dathvd.convolutions import (
    Fusion,
    Kernel,
    Shape,
    kernel_for,
    shape_of,
    shared_room,
)


def filtered_layers(network: nn.Module, dtype: torch.dtype) -> list[nn.Conv2d]:
    """The network's convolutions that some kernel computes on images of that type."""
    found = [each for each in network.modules() if kernel_for(each, dtype)]
    return [each for each in found if isinstance(each, nn.Conv2d)]


@contextmanager
def filtered(layers: Sequence[nn.Conv2d], dtype: torch.dtype) -> Iterator[None]:
    """Let layers run by their kernels in forward passes inside of this context.

    Args:
        layers: of a network; each is as before afterwards.
        dtype: of the images, to which autocast converts them.
    """
    for layer in layers:
        kernel = kernel_for(layer, dtype)
        assert kernel is not None
        vars(layer)["forward"] = _filtering(layer, kernel, dtype)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # uncovers the method of the layer's class


def _filtering(
    layer: nn.Conv2d, kernel: Kernel, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    directly, shape = layer.forward, shape_of(layer)

    def forward(images: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            images = images.to(dtype)
        if images.dtype is dtype and kernel.takes(images, shape, prepared=False):
            found: Tensor = _Convolution.apply(
                images, layer.weight, layer.bias, kernel, shape
            )  # type: ignore[no-untyped-call]
            return found
        # where weights are most of what is read, oneDNN is slower in channels last
        return directly(images.contiguous())

    return forward


class _Convolution(torch.autograd.Function):
    """A convolution with the gradients of images, weights and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        kernel: Kernel,
        shape: Shape,
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.kernel, ctx.shape = kernel, shape
        room = shared_room(kernel, weight, images.dtype)
        factors = kernel.transform(weight, room, shape)
        return kernel.convolve(images, factors, shape, Fusion(bias=bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        kernel: Kernel = ctx.kernel
        gradient, wanted = gradients[0], ctx.needs_input_grad
        found: list[Tensor | None] = [None] * 5
        if wanted[0]:
            room = shared_room(kernel, weight, images.dtype)
            factors = kernel.transform(weight, room, ctx.shape, adjoint=True)
            found[0] = kernel.adjoint(gradient, factors, ctx.shape, images.shape)
        if wanted[1]:
            found[1] = kernel.weight_gradient(images, gradient, ctx.shape)
        if wanted[2]:
            found[2] = gradient.float().sum(dim=(0, 2, 3))
        return tuple(found)
