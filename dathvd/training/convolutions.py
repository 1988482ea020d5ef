"""3x3 convolutions of the training passes by Winograd's minimal filtering."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dathvd.winograd import (
    convolve,
    fills_patches,
    native,
    num_patches,
    shared_room,
    suits,
    transform,
    weight_gradient,
)

_FEWEST = 16
"""Patches below which the transforms of the weights cost more than they save: each
pass needs them anew."""


def filtered_layers(network: nn.Module, dtype: torch.dtype) -> list[nn.Conv2d]:
    """The network's convolutions that may run so on images of that type."""
    found = [each for each in network.modules() if suits(each, dtype)]
    return [each for each in found if isinstance(each, nn.Conv2d)]


@contextmanager
def filtered(layers: Sequence[nn.Conv2d], dtype: torch.dtype) -> Iterator[None]:
    """Let layers that ``suits`` run so in forward passes inside of this context.

    Args:
        layers: of a network; each is as before afterwards.
        dtype: of the images, to which autocast converts them.
    """
    for layer in layers:
        vars(layer)["forward"] = _filtering(layer, dtype)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # uncovers the method of the layer's class


def _filtering(layer: nn.Conv2d, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    directly = layer.forward

    def forward(images: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            images = images.to(dtype)
        if (
            images.dtype is dtype
            and native.takes(images)
            and fills_patches(images)
            and num_patches(images) >= _FEWEST
        ):
            found: Tensor = _Convolution.apply(
                images, layer.weight, layer.bias
            )  # type: ignore[no-untyped-call]
            return found
        # where weights are most of what is read, oneDNN is slower in channels last
        return directly(images.contiguous())

    return forward


class _Convolution(torch.autograd.Function):
    """A convolution with the gradients of images, weights and bias."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        weights = transform(weight, shared_room(weight, images.dtype))
        return convolve(images, weights, bias, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        gradient = gradients[0]
        wanted = ctx.needs_input_grad
        found: list[Tensor | None] = [None, None, None]
        if wanted[0]:
            weights = transform(weight, shared_room(weight, images.dtype), adjoint=True)
            found[0] = convolve(gradient, weights, None, weight.shape[1])
        if wanted[1]:
            found[1] = weight_gradient(images, gradient)
        if wanted[2]:
            found[2] = gradient.float().sum(dim=(0, 2, 3))
        return tuple(found)
