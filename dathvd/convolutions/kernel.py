"""What the compiled convolutions have in common."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dathvd.native import Native

CHANNELS = 32
"""Both numbers of channels are multiples of it."""
LAYOUT = torch.channels_last


@dataclass(frozen=True)
class Shape:
    """A convolution padded by half its kernel."""

    inputs: int
    """Channels of the images."""
    outputs: int
    """Channels of the outputs."""
    kernel: int = 3
    """Its height and width."""
    stride: int = 1

    def sizes(self, images: torch.Size) -> tuple[int, ...]:
        """Of images ``[N, in, H, W]`` and the convolution, as compiled functions take
        them."""
        count, _, height, width = images
        channels = self.inputs, self.outputs
        return count, height, width, *channels, self.kernel, self.stride

    def outputs_of(self, images: Tensor) -> torch.Size:
        """The outputs' size, from ``[N, in, H, W]``."""
        count, _, height, width = images.shape
        down, across = -(-height // self.stride), -(-width // self.stride)
        return torch.Size((count, self.outputs, down, across))


@dataclass(frozen=True)
class Fusion:
    """What is done to pixels while they are read and written, in this order.

    Images, outputs and what is like them have one type and channels-last layout; what
    is of each channel is float32.
    """

    mask: Tensor | None = None
    """Like the images, which count as zero where this is not positive."""
    scale_in: Tensor | None = None
    """Of each channel in: images count as max(0, scale * images + shift)."""
    shift_in: Tensor | None = None
    bias: Tensor | None = None
    """Of each channel out, added to the sums."""
    gate: Tensor | None = None
    """Like the outputs, which are multiplied by the scale of their channel where scale
    * gate + shift is positive, and zero elsewhere."""
    scale_out: Tensor | None = None
    shift_out: Tensor | None = None
    residual: Tensor | None = None
    """Like the outputs, and added to them."""
    rectified: bool = False
    """Outputs below zero are zero."""

    def arguments(self) -> tuple[Tensor | int | None, ...]:
        """In the order of the compiled functions."""
        return (
            self.mask,
            self.scale_in,
            self.shift_in,
            self.bias,
            self.gate,
            self.scale_out,
            self.shift_out,
            self.residual,
            int(self.rectified),
        )


NOTHING = Fusion()


class Kernel(Protocol):
    """One way to compute convolutions on processors."""

    def suits(self, layer: nn.Conv2d, dtype: torch.dtype) -> bool:
        """Whether it computes such layers, padded by zeros to half their kernel with
        channels in multiples of 32, on images of that type on this processor."""
        ...

    def takes(self, images: Tensor, shape: Shape, *, prepared: bool) -> bool:
        """Whether it is the faster way for that many images of that size.

        Args:
            images: ``[N, in, H, W]`` on the processor.
            shape: of the convolution.
            prepared: the weights are used many times; else they are transformed for
                each call.
        """
        ...

    def num_factors(self, weight: Tensor) -> int:
        """Numbers that ``transform`` writes."""
        ...

    def transform(
        self, weight: Tensor, to: Tensor, shape: Shape, *, adjoint: bool = False
    ) -> Tensor:
        """Write the factors of a convolution, or of its adjoint.

        Args:
            weight: float32 ``[out, in, kernel, kernel]``.
            to: at least ``num_factors``; its type is that of the images.
            shape: of the convolution.
            adjoint: from the outputs' gradient to the images'.

        Returns:
            ``to``.
        """
        ...

    def convolve(
        self, images: Tensor, factors: Tensor, shape: Shape, fusion: Fusion = NOTHING
    ) -> Tensor:
        """Outputs ``[N, out, H / stride, W / stride]`` of images ``[N, in, H, W]``."""
        ...

    def adjoint(
        self,
        gradient: Tensor,
        factors: Tensor,
        shape: Shape,
        size: torch.Size,
        fusion: Fusion = NOTHING,
    ) -> Tensor:
        """The images' gradient of that size, from the outputs' one, by the adjoint's
        factors; for the fusion, the gradient's channels are those in."""
        ...

    def weight_gradient(self, images: Tensor, gradient: Tensor, shape: Shape) -> Tensor:
        """Float32 ``[out, in, kernel, kernel]`` from images and the outputs' gradient
        of one type."""
        ...


class DirectSums:
    """The part of a ``Kernel`` that sums directly, of any of its kernels and strides.

    Args:
        native: the library.
        name: of its functions, before ``_transform`` and ``_convolve``.
    """

    def __init__(self, native: Native, name: str) -> None:
        self._native, self._name = native, name

    def num_factors(self, weight: Tensor) -> int:
        """As many as weights."""
        return weight.numel()

    def transform(
        self, weight: Tensor, to: Tensor, shape: Shape, *, adjoint: bool = False
    ) -> Tensor:
        """As ``Kernel``."""
        sizes = (shape.inputs, shape.outputs, shape.kernel, shape.stride, adjoint)
        threads = torch.get_num_threads()
        self._call("transform", weight.contiguous(), to, *sizes, threads)
        return to

    def convolve(
        self, images: Tensor, factors: Tensor, shape: Shape, fusion: Fusion = NOTHING
    ) -> Tensor:
        """As ``Kernel``."""
        out = outputs(shape.outputs_of(images), images.dtype)
        return self._convolve(images, factors, out, shape, images.shape, False, fusion)

    def adjoint(
        self,
        gradient: Tensor,
        factors: Tensor,
        shape: Shape,
        size: torch.Size,
        fusion: Fusion = NOTHING,
    ) -> Tensor:
        """As ``Kernel``."""
        out = outputs(size, gradient.dtype)
        return self._convolve(gradient, factors, out, shape, size, True, fusion)

    def _convolve(
        self,
        images: Tensor,
        factors: Tensor,
        out: Tensor,
        shape: Shape,
        size: torch.Size,
        adjoint: bool,
        fusion: Fusion,
    ) -> Tensor:
        sizes = (*shape.sizes(size), adjoint, torch.get_num_threads())
        fused = fusion.arguments()
        self._call("convolve", laid_out(images), factors, out, *sizes, *fused)
        return out

    def _call(self, name: str, *arguments: Tensor | int | None) -> None:
        self._native.call(f"{self._name}_{name}", *arguments)


def room(kernel: Kernel, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Memory for the factors of a weight."""
    return torch.empty(kernel.num_factors(weight), dtype=dtype)


_shared = threading.local()


def shared_room(kernel: Kernel, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The same, of this thread, which its next call writes over."""
    wanted = kernel.num_factors(weight)
    kept: dict[str, Tensor] = vars(_shared)
    held = kept.get(str(dtype))
    if held is None or len(held) < wanted:
        held = kept[str(dtype)] = torch.empty(wanted, dtype=dtype)
    return held


def laid_out(images: Tensor) -> Tensor:
    """The images in the kernels' layout."""
    return images.contiguous(memory_format=LAYOUT)


def outputs(size: torch.Size, dtype: torch.dtype) -> Tensor:
    """Memory for images in the kernels' layout."""
    return torch.empty(size, dtype=dtype, memory_format=LAYOUT)
