"""Brightness, contrast, saturation, and fog."""

from __future__ import annotations

import torch
from torch import Tensor

from dathvd.evaluation.corruptions.kind import Corruption
from dathvd.noise import SampleNoise

_STREAM = 30_100
_WIBBLE = 100.0


def _brightness(images: Tensor, more: float, noise: SampleNoise) -> Tensor:
    """The value of HSV raised, hue and saturation as they are: all channels scaled."""
    value = images.amax(dim=1, keepdim=True)
    raised = (value + more).clamp(0.0, 1.0)
    return torch.where(value > 0, images * (raised / value), raised)


def _contrast(images: Tensor, share: float, noise: SampleNoise) -> Tensor:
    means = images.mean(dim=(2, 3), keepdim=True)
    return (images - means) * share + means


def _saturate(
    images: Tensor, strength: tuple[float, float], noise: SampleNoise
) -> Tensor:
    """The saturation of HSV scaled and raised; grey, whose hue is 0, becomes red."""
    if images.shape[1] == 1:
        return images
    factor, more = strength
    value, least = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
    spread = value - least
    saturation = torch.where(value > 0, spread / value, 0.0)
    red = images.new_tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1)
    away = torch.where(spread > 0, (value - images) / spread, red)
    return value * (1 - (saturation * factor + more).clamp(0.0, 1.0) * away)


def _fog(images: Tensor, strength: tuple[float, float], noise: SampleNoise) -> Tensor:
    thickness, decay = strength
    height, width = images.shape[2:]
    clouds = plasma(noise, len(images), max(height, width), decay).to(images)
    clouds = clouds[:, None, :height, :width]
    lightest = images.flatten(1).amax(dim=1).view(-1, 1, 1, 1)
    return (images + thickness * clouds) * lightest / (lightest + thickness)


def plasma(noise: SampleNoise, count: int, side: int, decay: float) -> Tensor:
    """Clouds ``[count, n, n]`` in [0, 1], n the least power of two of ``side`` or more.

    The diamond-square algorithm (Fournier, Fussell and Carpenter, 1982) on a torus: at
    each halving of the mesh, points get the mean of four neighbours and a draw whose
    range shrinks by ``decay``.
    """
    size = 1 << max(side - 1, 1).bit_length()
    clouds = torch.zeros(count, size, size, dtype=torch.float64)
    mesh, wibble, stream = size, _WIBBLE, _STREAM
    while mesh >= 2:
        half = mesh // 2

        def moved(total: Tensor) -> Tensor:
            nonlocal stream
            stream += 1
            draw = noise.uniform(total.shape, stream).cpu().double().mul_(2).sub_(1)
            return total / 4 + wibble * wibble * draw

        corners = clouds[:, ::mesh, ::mesh]
        total = corners + corners.roll(-1, 1)
        total = total + total.roll(-1, 2)
        clouds[:, half::mesh, half::mesh] = moved(total)
        middles = clouds[:, half::mesh, half::mesh]
        beside = middles + middles.roll(1, 1) + corners + corners.roll(-1, 2)
        clouds[:, ::mesh, half::mesh] = moved(beside)
        below = middles + middles.roll(1, 2) + corners + corners.roll(-1, 1)
        clouds[:, half::mesh, ::mesh] = moved(below)
        mesh, wibble = half, wibble / decay
    lowest = clouds.amin(dim=(1, 2), keepdim=True)
    highest = clouds.amax(dim=(1, 2), keepdim=True)
    return (clouds - lowest) / (highest - lowest)


BRIGHTNESS = Corruption(
    _brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)
)
CONTRAST = Corruption(
    _contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)
)
SATURATE = Corruption(
    _saturate,
    ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
)
FOG = Corruption(
    _fog,
    ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
)
