"""3x3 convolutions with 36 products where 144 were, on processors.

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016: outputs
in patches of 4x4, by Winograd's minimal filtering F(4x4, 3x3) at the points 0,
sqrt(1/2), sqrt(2), their opposites and infinity. Images and outputs are channels-last.

In float32 the rounding errors are a few times those of the direct sum. With factors in
bfloat16 (sums in float32) they are 1 % of the outputs' deviation, where the direct sum
of bfloat16 numbers has 0.24 %.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor, nn

from dathvd.native import Native

_PATCH = 4
_POINTS = (_PATCH + 2) ** 2
_CHANNELS = 32
"""Channels of one panel of weights; both numbers of channels are multiples of it."""
_LAYOUT = torch.channels_last
_shared = threading.local()
native = Native(
    "dathvd.attacks._winograd",
    {
        "winograd_transform": "ppnniii",
        "winograd_convolve": "ppppnnnnnii",
        "winograd_weight_gradient": "pppnnnnnii",
    },
)
direct_sums = native.switched_off
"""A block in which all convolutions are summed directly."""


def suits(layer: nn.Module, dtype: torch.dtype = torch.float32) -> bool:
    """Whether this convolution may run so, where the images suit it too.

    Args:
        layer: any layer.
        dtype: of its images: float32; or bfloat16, on processors that multiply it in
            vectors (avx512_bf16) and not in tiles (AMX), whose direct sum is faster.
    """
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
        and _multiplies(dtype)
    )


def _multiplies(dtype: torch.dtype) -> bool:
    if dtype is torch.bfloat16:
        has_tiles = torch.cpu._is_amx_tile_supported()
        return native.target() == "avx512_bf16" and not has_tiles
    # the plain loops are slower than torch's direct sum
    return dtype is torch.float32 and native.target() != "plain"


def num_patches(images: Tensor) -> int:
    """Patches of 4x4 outputs of all images ``[N, C, H, W]``."""
    count, _, height, width = images.shape
    return int(count * -(-height // _PATCH) * -(-width // _PATCH))


def fills_patches(images: Tensor) -> bool:
    """Whether at least half of what the patches compute lies in the images."""
    count, _, height, width = images.shape
    return num_patches(images) * _PATCH**2 <= 2 * count * height * width


def room(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Memory for the transformed weights of ``[out, in, 3, 3]``."""
    return torch.empty(_POINTS * weight.shape[0] * weight.shape[1], dtype=dtype)


def shared_room(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The same, of this thread, which its next call writes over."""
    wanted = _POINTS * weight.shape[0] * weight.shape[1]
    kept: dict[str, Tensor] = vars(_shared)
    held = kept.get(str(dtype))
    if held is None or len(held) < wanted:
        held = kept[str(dtype)] = room(weight, dtype)
    return held


def transform(weight: Tensor, to: Tensor, *, adjoint: bool = False) -> Tensor:
    """Write the transformed weights of a convolution, or of its adjoint.

    Args:
        weight: float32 ``[out, in, 3, 3]``.
        to: memory from ``room``; its type is that of the factors.
        adjoint: from the outputs' gradient to the inputs'.

    Returns:
        ``to``.
    """
    channels = weight.shape[:2] if adjoint else weight.shape[1::-1]
    half = to.dtype is torch.bfloat16
    threads = torch.get_num_threads()
    native.call(
        "winograd_transform", weight.contiguous(), to, *channels, adjoint, half, threads
    )
    return to


def convolve(
    images: Tensor, transformed: Tensor, bias: Tensor | None, channels: int
) -> Tensor:
    """Outputs ``[N, channels, H, W]`` of the images' type, padded by zeros.

    Args:
        images: ``[N, in, H, W]``, float32 or bfloat16.
        transformed: what ``transform`` wrote, of the same type.
        bias: float32 ``[channels]``, or none.
        channels: of the outputs.
    """
    count, own, height, width = images.shape
    images = images.contiguous(memory_format=_LAYOUT)
    size = (count, channels, height, width)
    out = torch.empty(size, dtype=images.dtype, memory_format=_LAYOUT)
    half = images.dtype is torch.bfloat16
    sizes = (count, height, width, own, channels, half, torch.get_num_threads())
    native.call("winograd_convolve", images, transformed, bias, out, *sizes)
    return out


def weight_gradient(images: Tensor, gradient: Tensor) -> Tensor:
    """Float32 ``[out, in, 3, 3]`` from images ``[N, in, H, W]`` and the gradient of
    their outputs, ``[N, out, H, W]`` of the same type.
    """
    count, inputs, height, width = images.shape
    outputs = gradient.shape[1]
    images = images.contiguous(memory_format=_LAYOUT)
    gradient = gradient.contiguous(memory_format=_LAYOUT)
    found = torch.empty(outputs, inputs, 3, 3)
    half = images.dtype is torch.bfloat16
    sizes = (count, height, width, inputs, outputs, half, torch.get_num_threads())
    native.call("winograd_weight_gradient", images, gradient, found, *sizes)
    return found
