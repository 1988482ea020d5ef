"""Blurs: of a normal kernel, of a disk, and of zooming in."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from dathvd.evaluation.corruptions.kind import Corruption
from dathvd.noise import SampleNoise

_TRUNCATE = 4.0
"""Deviations at which the normal kernel ends."""


def _gaussian(images: Tensor, deviation: float, noise: SampleNoise) -> Tensor:
    """Both sides in turn, by a kernel that goes on beyond the edge by its last row."""
    radius = int(_TRUNCATE * deviation + 0.5)
    places = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (places / deviation) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    for turned in (True, False):
        flat = images.mT if turned else images
        rows = F.pad(flat.flatten(0, 1)[:, None], (radius, radius, 0, 0), "replicate")
        blurred = F.conv2d(rows, kernel).view(flat.shape)
        images = blurred.mT if turned else blurred
    return images


def _defocus(
    images: Tensor, strength: tuple[float, float], noise: SampleNoise
) -> Tensor:
    """A disk with softened rim; beyond the edge the image is mirrored."""
    kernel = disk(*strength)
    side = kernel.shape[0] // 2
    padded = np.pad(
        images.cpu().numpy(), ((0, 0), (0, 0), (side, side), (side, side)), "reflect"
    )
    rows = torch.from_numpy(padded).to(images).flatten(0, 1)[:, None]
    weights = torch.from_numpy(kernel).to(images)[None, None]
    return F.conv2d(rows, weights).view(images.shape)


def disk(radius: float, softness: float) -> NDArray[np.float64]:
    """A disk of sum 1, its rim softened by a small normal kernel; no empty rows."""
    reach = max(8, math.ceil(radius))
    places = np.arange(-reach, reach + 1)
    inside = (places[:, None] ** 2 + places[None, :] ** 2 <= radius**2).astype(float)
    half = 1 if radius <= 8 else 2
    bell = np.exp(-0.5 * (np.arange(-half, half + 1) / softness) ** 2)
    bell /= bell.sum()
    soft: NDArray[np.float64] = inside / inside.sum()
    for axis in (0, 1):
        soft = ndimage.correlate1d(soft, bell, axis=axis, mode="mirror")
    rows = np.nonzero(soft.sum(axis=1) > 1e-9)[0]
    return soft[rows[0] : rows[-1] + 1, rows[0] : rows[-1] + 1]


def _zoom(images: Tensor, strength: tuple[float, float], noise: SampleNoise) -> Tensor:
    """The mean of the image and of its middle at growing factors, from 1 on."""
    last, step = strength
    factors = np.arange(1, last, step)
    pixels = images.cpu().numpy().astype(np.float32)
    total = pixels + sum(_zoomed(pixels, factor) for factor in factors)
    return torch.from_numpy(total / (len(factors) + 1)).to(images)


def _zoomed(images: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """The middle of the images, as large as they are, interpolated linearly."""
    height, width = images.shape[2:]
    rows, columns = (math.ceil(side / factor) for side in (height, width))
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = images[:, :, top : top + rows, left : left + columns]
    large = ndimage.zoom(middle, (1, 1, factor, factor), order=1)
    top, left = (large.shape[2] - height) // 2, (large.shape[3] - width) // 2
    cut: NDArray[np.float32] = large[:, :, top : top + height, left : left + width]
    return cut


GAUSSIAN_BLUR = Corruption(_gaussian, (0.4, 0.6, 0.7, 0.8, 1.0), (1, 2, 3, 4, 6))
DEFOCUS_BLUR = Corruption(
    _defocus,
    ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
)
ZOOM_BLUR = Corruption(
    _zoom,
    ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
)
