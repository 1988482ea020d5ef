"""Convolutions in float32 by the direct sum, for strides that Winograd does not take.

The factors of some pixels are put side by side and multiplied by the weights, while
what stands around the convolution is computed; of an adjoint with a stride, pixels that
take the same taps go together, so that no product with zero is computed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dathvd.convolutions.kernel import DirectSums, Shape, laid_out
from dathvd.convolutions.winograd import native

_FEWEST = 64
"""Pixels of the outputs below which torch is faster, as weights are most of what is
read."""


class Direct(DirectSums):
    """The ``Kernel``: 3x3 of stride 2, and 1x1, in float32."""

    def __init__(self) -> None:
        super().__init__(native, "direct")

    def suits(self, layer: nn.Conv2d, dtype: torch.dtype) -> bool:
        """Whether the layer is such a one, and the processor has AVX2 at least."""
        fits = (layer.kernel_size, layer.stride) in (
            ((3, 3), (2, 2)),
            ((1, 1), (2, 2)),
            ((1, 1), (1, 1)),
        )
        fast = native.takes(layer.weight) and native.target() != "plain"
        return fits and fast and dtype is torch.float32

    def takes(self, images: Tensor, shape: Shape, *, prepared: bool) -> bool:
        """Whether there are pixels enough."""
        count, _, down, across = shape.outputs_of(images)
        return native.takes(images) and count * down * across >= _FEWEST

    def weight_gradient(self, images: Tensor, gradient: Tensor, shape: Shape) -> Tensor:
        """By torch."""
        images, gradient = laid_out(images), laid_out(gradient)
        kernel = shape.kernel
        weight = images.new_empty(shape.outputs, shape.inputs, kernel, kernel)
        sides = [kernel // 2] * 2, [1, 1]
        found: Tensor = torch.ops.aten.convolution_backward(
            gradient,
            images,
            weight,
            None,
            [shape.stride] * 2,
            *sides,
            False,
            [0, 0],
            1,
            [False, True, False],
        )[1]
        return found
