"""What convolutions cost on this processor: torch's beside the compiled kernels.

    python -m dathvd.benchmark.step.convolutions --batch-size 32

prints, for the layers of a residual network on 32x32 images, rates of the forward pass
and the gradients of images and weights on one thread, by the processor time that they
used, operations counted as those of the direct sum; and the weights' transforms, which
a training pass needs once each way, and an attack once for all of its steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import torch

    from dathvd.convolutions import Kernel

LAYERS = (
    (64, 64, 32, 3, 1),
    (128, 128, 16, 3, 1),
    (256, 256, 8, 3, 1),
    (512, 512, 4, 3, 1),
    (64, 128, 32, 3, 2),
    (128, 256, 16, 3, 2),
    (256, 512, 8, 3, 2),
    (256, 512, 8, 1, 2),
)
"""Channels in and out, the side of the images, the kernel's, and the stride."""


@click.command()
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=4, show_default=True)
def main(batch_size: int, repeats: int) -> None:
    """Print a table of layers."""
    import torch

    from dathvd.convolutions import kernel_for, shape_of

    torch.set_num_threads(1)
    click.echo(
        f"{'GFLOP/s':40}{'forward':>9}{'images':>9}{'weights':>9}{'transforms':>15}"
    )
    for inputs, outputs, side, kernel, stride in LAYERS:
        layer = torch.nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
        for dtype in (torch.float32, torch.bfloat16):
            name = f"{inputs}-{outputs} {kernel}x{kernel} / {stride} "
            name += str(dtype).removeprefix("torch.")
            images = torch.randn(batch_size, inputs, side, side, dtype=dtype)
            images = images.contiguous(memory_format=torch.channels_last)
            pixels = shape_of(layer).outputs_of(images).numel()
            work = 2 * kernel**2 * inputs * pixels / 1e9
            ways = {f"{name}, torch": _by_torch(layer, images)}
            own = kernel_for(layer, dtype)
            if own is not None and own.takes(images, shape_of(layer), prepared=True):
                label = f"{name}, {type(own).__name__.lower()}"
                ways[label] = _by_kernel(own, layer, images)
            for label, (transforms, *passes) in ways.items():
                seconds = [_seconds(each, repeats) for each in passes]
                rates = "".join(f"{work / each:9.0f}" for each in seconds)
                spent = 1e3 * _seconds(transforms, repeats)
                click.echo(f"{label:40}{rates}{spent:12.2f} ms")


def _seconds(work: Callable[[], object], repeats: int) -> float:
    """Of the processor, the least of several; one warm-up."""
    spans = []
    for _ in range(repeats + 1):
        began = time.thread_time()
        work()
        spans.append(time.thread_time() - began)
    return max(min(spans[1:]), 1e-9)


def _by_torch(
    layer: torch.nn.Conv2d, images: torch.Tensor
) -> list[Callable[[], object]]:
    import torch

    weight = layer.weight.detach().to(images.dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    stride, padding = list(layer.stride), list(layer.kernel_size)
    padding = [each // 2 for each in padding]

    def forward() -> torch.Tensor:
        return torch.conv2d(images, weight, None, stride, padding)

    outputs = forward()

    def backward(mask: list[bool]) -> object:
        sizes = stride, padding, [1, 1], False, [0, 0], 1
        return torch.ops.aten.convolution_backward(
            outputs, images, weight, None, *sizes, mask
        )

    return [
        lambda: None,
        forward,
        lambda: backward([True, False, False]),
        lambda: backward([False, True, False]),
    ]


def _by_kernel(
    kernel: Kernel, layer: torch.nn.Conv2d, images: torch.Tensor
) -> list[Callable[[], object]]:
    from dathvd.convolutions import room, shape_of

    weight, shape = layer.weight.detach(), shape_of(layer)
    there, back = (room(kernel, weight, images.dtype) for _ in range(2))

    def both() -> None:
        kernel.transform(weight, there, shape)
        kernel.transform(weight, back, shape, adjoint=True)

    both()
    outputs = kernel.convolve(images, there, shape)
    return [
        both,
        lambda: kernel.convolve(images, there, shape),
        lambda: kernel.adjoint(outputs, back, shape, images.shape),
        lambda: kernel.weight_gradient(images, outputs, shape),
    ]


if __name__ == "__main__":
    main()
