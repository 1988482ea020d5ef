"""Convolutions of an attack's own network, with what stands before and after them.

An attack runs the same weights many times: they are prepared once. Batch norm with
ReLU before a convolution, and a residual and ReLU after it, are computed while its
images and outputs are read and written, both ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dathvd.convolutions import Fusion, Kernel, laid_out, room, shape_of


@dataclass
class Around:
    """What one convolution takes over."""

    norm: str | None = None
    """The name of the batch norm before it, whose output it takes through a ReLU."""
    rectified: bool = False
    """Whether a ReLU takes its outputs."""
    passes: bool = False
    """Whether it also returns its images, for the other one that takes them: their
    gradient then comes here, and is added to this one's in the same pass."""


class FusedConv2d(nn.Module):
    """A convolution that has a kernel; its weights get no gradient.

    Args:
        layer: whose shape it has.
        kernel: what computes it.
        dtype: of images and factors, float32 or bfloat16.
        around: what it takes over.
    """

    def __init__(
        self,
        layer: nn.Conv2d,
        kernel: Kernel,
        dtype: torch.dtype = torch.float32,
        around: Around | None = None,
    ) -> None:
        super().__init__()
        self.kernel, self.shape, self.dtype = kernel, shape_of(layer), dtype
        self.around = around or Around()
        self.weight = torch.empty(layer.weight.shape)
        self.bias: Tensor | None = None
        self.scale: Tensor | None = None
        self.shift: Tensor | None = None
        self.factors = room(kernel, layer.weight, dtype)
        self.adjoint_factors = room(kernel, layer.weight, dtype)
        self._is_prepared = False

    def set(
        self,
        weight: Tensor,
        bias: Tensor | None,
        affine: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Take new weights.

        Args:
            weight: float32 ``[out, in, kernel, kernel]``.
            bias: float32 ``[out]``.
            affine: scale and shift of each channel in, where a norm stands before.
        """
        self.weight, self.bias = weight.contiguous(), bias
        self.scale, self.shift = affine or (None, None)
        self._is_prepared = False

    def forward(
        self, images: Tensor, residual: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """``[N, in, H, W]`` to ``[N, out, H / stride, W / stride]``."""
        if torch.is_autocast_enabled("cpu"):
            images = images.to(self.dtype)
        if residual is not None:
            residual = residual.to(images.dtype)
        suits = images.dtype is self.dtype and (
            residual is None or residual.shape == self.shape.outputs_of(images)
        )
        if not (suits and self.kernel.takes(images, self.shape, prepared=True)):
            outputs = self._by_torch(images, residual)
            return (outputs, images) if self.around.passes else outputs
        if not self._is_prepared:
            transform = partial(self.kernel.transform, self.weight, shape=self.shape)
            transform(to=self.factors)
            transform(to=self.adjoint_factors, adjoint=True)
            self._is_prepared = True
        found: tuple[Tensor, Tensor] = _Convolution.apply(
            images, residual, self
        )  # type: ignore[no-untyped-call]
        return found if self.around.passes else found[0]

    def _by_torch(self, images: Tensor, residual: Tensor | None) -> Tensor:
        if self.scale is not None and self.shift is not None:
            scaled = images * self.scale.view(-1, 1, 1) + self.shift.view(-1, 1, 1)
            images = F.relu(scaled).to(images.dtype)
        # where weights are most of what is read, oneDNN is slower in channels last
        images = images.contiguous()
        stride, padding = self.shape.stride, self.shape.kernel // 2
        outputs = F.conv2d(images, self.weight, self.bias, stride, padding)
        if residual is not None:
            outputs = outputs + residual
        return F.relu(outputs) if self.around.rectified else outputs


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, residual: Tensor | None, layer: FusedConv2d
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        if residual is not None:
            residual = laid_out(residual)
        images = laid_out(images)
        fusion = Fusion(
            scale_in=layer.scale,
            shift_in=layer.shift,
            bias=layer.bias,
            residual=residual,
            rectified=layer.around.rectified,
        )
        outputs = layer.kernel.convolve(images, layer.factors, layer.shape, fusion)
        ctx.layer, ctx.size, ctx.affine = (
            layer,
            images.shape,
            (layer.scale, layer.shift),
        )
        ctx.save_for_backward(
            images if layer.scale is not None else None,
            outputs if layer.around.rectified else None,
        )
        return outputs, images if layer.around.passes else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        layer: FusedConv2d = ctx.layer
        gradient, passed = (
            each if each is None else laid_out(each) for each in gradients
        )
        if gradient is None:
            return passed, None, None
        gate, mask = ctx.saved_tensors
        scale, shift = ctx.affine
        if mask is not None and ctx.needs_input_grad[1]:
            gradient, mask = torch.ops.aten.threshold_backward(gradient, mask, 0), None
        of_images = None
        if ctx.needs_input_grad[0]:
            fusion = Fusion(
                mask=mask, gate=gate, scale_out=scale, shift_out=shift, residual=passed
            )
            of_images = layer.kernel.adjoint(
                gradient, layer.adjoint_factors, layer.shape, ctx.size, fusion
            )
        return of_images, gradient if ctx.needs_input_grad[1] else None, None
