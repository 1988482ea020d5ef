"""3x3 convolutions with 36 products where 144 were, on processors.

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016: outputs
in patches of 4x4, by Winograd's minimal filtering F(4x4, 3x3) at the points 0,
sqrt(1/2), sqrt(2), their opposites and infinity. Images and outputs are channels-last.

In float32 the rounding errors are a few times those of the direct sum. With factors in
bfloat16 (sums in float32) they are 1 % of the outputs' deviation, where the direct sum
of bfloat16 numbers has 0.24 %.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dathvd.convolutions.kernel import NOTHING, Fusion, Shape, laid_out, outputs
from dathvd.native import Native

_PATCH = 4
_POINTS = (_PATCH + 2) ** 2
_FEWEST = {True: 8, False: 16}
"""Patches below which reading prepared weights, or else transforming them, costs more
than is saved."""
native = Native(
    "dathvd.convolutions._winograd",
    {
        "winograd_transform": "ppnniii",
        "winograd_convolve": "pppnnnnnii" + "pppppppp" + "i",
        "winograd_weight_gradient": "pppnnnnnii",
        "direct_transform": "ppnnnnii",
        "direct_convolve": "pppnnnnnnnii" + "pppppppp" + "i",
    },
)


class Winograd:
    """The ``Kernel``: stride 1, in float32, or bfloat16 with avx512_bf16."""

    def suits(self, layer: nn.Conv2d, dtype: torch.dtype) -> bool:
        """Whether the layer is 3x3 of stride 1, and the type has fast loops here."""
        fits = layer.kernel_size == (3, 3) and layer.stride == (1, 1)
        return fits and native.takes(layer.weight) and _multiplies(dtype)

    def takes(self, images: Tensor, shape: Shape, *, prepared: bool) -> bool:
        """Whether there are patches enough, and at least half of what they compute
        lies in the images."""
        if not native.takes(images):
            return False
        count, _, height, width = images.shape
        patches = count * -(-height // _PATCH) * -(-width // _PATCH)
        fills = patches * _PATCH**2 <= 2 * count * height * width
        return fills and patches >= _FEWEST[prepared]

    def num_factors(self, weight: Tensor) -> int:
        """36 for each pair of channels."""
        return _POINTS * weight.shape[0] * weight.shape[1]

    def transform(
        self, weight: Tensor, to: Tensor, shape: Shape, *, adjoint: bool = False
    ) -> Tensor:
        """As ``Kernel``."""
        channels = weight.shape[:2] if adjoint else weight.shape[1::-1]
        half = to.dtype is torch.bfloat16
        sizes = (*channels, adjoint, half, torch.get_num_threads())
        native.call("winograd_transform", weight.contiguous(), to, *sizes)
        return to

    def convolve(
        self, images: Tensor, factors: Tensor, shape: Shape, fusion: Fusion = NOTHING
    ) -> Tensor:
        """As ``Kernel``."""
        images = laid_out(images)
        count, own, height, width = images.shape
        out = outputs(shape.outputs_of(images), images.dtype)
        half = images.dtype is torch.bfloat16
        sizes = (count, height, width, own, shape.outputs, half)
        threads = torch.get_num_threads()
        fused = fusion.arguments()
        native.call("winograd_convolve", images, factors, out, *sizes, threads, *fused)
        return out

    def adjoint(
        self,
        gradient: Tensor,
        factors: Tensor,
        shape: Shape,
        size: torch.Size,
        fusion: Fusion = NOTHING,
    ) -> Tensor:
        """As ``Kernel``."""
        return self.convolve(
            gradient, factors, Shape(shape.outputs, shape.inputs), fusion
        )

    def weight_gradient(self, images: Tensor, gradient: Tensor, shape: Shape) -> Tensor:
        """As ``Kernel``."""
        images, gradient = laid_out(images), laid_out(gradient)
        count, inputs, height, width = images.shape
        found = torch.empty(shape.outputs, inputs, 3, 3)
        half = images.dtype is torch.bfloat16
        sizes = (count, height, width, inputs, shape.outputs, half)
        threads = torch.get_num_threads()
        native.call(
            "winograd_weight_gradient", images, gradient, found, *sizes, threads
        )
        return found


def _multiplies(dtype: torch.dtype) -> bool:
    if dtype is torch.bfloat16:
        return native.target() == "avx512_bf16"
    # the plain loops are slower than torch's direct sum
    return dtype is torch.float32 and native.target() != "plain"
