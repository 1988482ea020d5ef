"""What 3x3 convolutions cost on this processor: torch's direct sum beside Winograd's.

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

LAYERS = ((64, 32), (128, 16), (256, 8), (512, 4))
"""Channels in and out, and the side of the images."""


@click.command()
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=4, show_default=True)
def main(batch_size: int, repeats: int) -> None:
    """Print a table of layers."""
    import torch

    from dathvd.winograd import suits

    torch.set_num_threads(1)
    click.echo(
        f"{'GFLOP/s':24}{'forward':>9}{'images':>9}{'weights':>9}{'transforms':>15}"
    )
    for channels, side in LAYERS:
        layer = torch.nn.Conv2d(channels, channels, 3, padding=1)
        work = 2 * 9 * batch_size * (channels * side) ** 2 / 1e9
        for dtype in (torch.float32, torch.bfloat16):
            name = f"{channels} {str(dtype).removeprefix('torch.')}"
            images = torch.randn(batch_size, channels, side, side, dtype=dtype)
            images = images.contiguous(memory_format=torch.channels_last)
            ways = {f"{name}, direct": _direct(images)}
            if suits(layer, dtype):
                ways[f"{name}, Winograd"] = _filtered(images)
            for label, (transforms, *passes) in ways.items():
                seconds = [_seconds(each, repeats) for each in passes]
                rates = "".join(f"{work / each:9.0f}" for each in seconds)
                spent = 1e3 * _seconds(transforms, repeats)
                click.echo(f"{label:24}{rates}{spent:12.2f} ms")


def _seconds(work: Callable[[], object], repeats: int) -> float:
    """Of the processor, the least of several; one warm-up."""
    spans = []
    for _ in range(repeats + 1):
        began = time.thread_time()
        work()
        spans.append(time.thread_time() - began)
    return max(min(spans[1:]), 1e-9)


def _direct(images: torch.Tensor) -> list[Callable[[], object]]:
    import torch

    channels = images.shape[1]
    weight = torch.randn(channels, channels, 3, 3, dtype=images.dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    ones, zeros = [1, 1], [0, 0]

    def backward(mask: list[bool]) -> object:
        return torch.ops.aten.convolution_backward(
            images, images, weight, None, ones, ones, ones, False, zeros, 1, mask
        )

    return [
        lambda: None,
        lambda: torch.conv2d(images, weight, padding=1),
        lambda: backward([True, False, False]),
        lambda: backward([False, True, False]),
    ]


def _filtered(images: torch.Tensor) -> list[Callable[[], object]]:
    import torch

    from dathvd.winograd import convolve, room, transform, weight_gradient

    channels = images.shape[1]
    weight = torch.randn(channels, channels, 3, 3)
    there, back = room(weight, images.dtype), room(weight, images.dtype)

    def both() -> None:
        transform(weight, there)
        transform(weight, back, adjoint=True)

    both()
    return [
        both,
        lambda: convolve(images, there, None, channels),
        lambda: convolve(images, back, None, channels),
        lambda: weight_gradient(images, images),
    ]


if __name__ == "__main__":
    main()
