"""Convolutions of bfloat16 images in tiles (AMX): the direct sum, in float32.

A tile's rows are one pixel of 16 images, or neighbouring pixels of fewer, so that
images are copied once, a line of 32 channels at a time, and never gathered per tap.
Rounding errors are those of torch's own bfloat16 convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dathvd.convolutions.kernel import DirectSums, Shape, laid_out
from dathvd.native import Native

_FEWEST = {1: 2, 2: 17}
"""Images by stride: neighbouring pixels of a wider stride are not beside each other,
so that a tile's rows, and the 32 terms of a gradient, are images alone."""
native = Native(
    "dathvd.convolutions._tiles",
    {
        "tiles_transform": "ppnnnnii",
        "tiles_convolve": "pppnnnnnnnii" + "pppppppp" + "i",
        "tiles_weight_gradient": "pppnnnnnnni",
    },
    targets=("none", "amx"),
)


class Tiles(DirectSums):
    """The ``Kernel``: 1x1 and 3x3, of stride 1 and 2, in bfloat16."""

    def __init__(self) -> None:
        super().__init__(native, "tiles")

    def suits(self, layer: nn.Conv2d, dtype: torch.dtype) -> bool:
        """Whether the processor has tiles that the system lets this process use."""
        sides, steps = ((1, 1), (3, 3)), ((1, 1), (2, 2))
        fits = layer.kernel_size in sides and layer.stride in steps
        return fits and dtype is torch.bfloat16 and native.target() == "amx"

    def takes(self, images: Tensor, shape: Shape, *, prepared: bool) -> bool:
        """Whether there are images enough."""
        return native.takes(images) and len(images) >= _FEWEST[shape.stride]

    def weight_gradient(self, images: Tensor, gradient: Tensor, shape: Shape) -> Tensor:
        """As ``Kernel``."""
        images, gradient = laid_out(images), laid_out(gradient)
        kernel = shape.kernel
        found = torch.empty(shape.outputs, shape.inputs, kernel, kernel)
        sizes = shape.sizes(images.shape)
        threads = torch.get_num_threads()
        native.call("tiles_weight_gradient", images, gradient, found, *sizes, threads)
        return found
