"""Noise of single values."""

from __future__ import annotations

import torch
from scipy import stats
from torch import Tensor

from dathvd.evaluation.corruptions.kind import Corruption
from dathvd.noise import SampleNoise

_STREAM = 30_000


def _gaussian(images: Tensor, deviation: float, noise: SampleNoise) -> Tensor:
    return images + deviation * noise.normal(images.shape, _STREAM)


def _speckle(images: Tensor, deviation: float, noise: SampleNoise) -> Tensor:
    return images + images * deviation * noise.normal(images.shape, _STREAM)


def _shot(images: Tensor, photons: float, noise: SampleNoise) -> Tensor:
    """Poisson's law by inversion: as many photons as a value stands for."""
    draw = noise.uniform(images.shape, _STREAM).double()
    expected = images.double() * photons
    counts = stats.poisson.ppf(draw.cpu().numpy(), expected.cpu().numpy())
    return torch.from_numpy(counts).clamp_min_(0).to(images) / photons


def _impulse(images: Tensor, share: float, noise: SampleNoise) -> Tensor:
    """Half of that share of the values become 1, half 0."""
    draw = noise.uniform(images.shape, _STREAM)
    salted = torch.where(draw < share / 2, 1.0, images)
    return torch.where((draw >= share / 2) & (draw < share), 0.0, salted)


GAUSSIAN_NOISE = Corruption(
    _gaussian, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)
)
SHOT_NOISE = Corruption(_shot, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3))
IMPULSE_NOISE = Corruption(
    _impulse, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)
)
SPECKLE_NOISE = Corruption(
    _speckle, (0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.35, 0.45, 0.6)
)
