"""RandAugment: a few operations a sample, drawn from fourteen, of one strength.

Cubuk, Zoph, Shlens and Le, RandAugment: Practical Automated Data Augmentation with a
Reduced Search Space, NeurIPS 2020, with torchvision's operations and strengths.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dathvd.noise import SampleNoise

_STREAM = 60
BINS = 31
"""Strengths: 0 (the weakest) to 30."""
Operation = Callable[[Tensor, float], Tensor]
"""From a uint8 image ``[C, H, W]`` and a signed strength in [-1, 1] to the same."""


def _affine(
    image: Tensor, shift: tuple[int, int], shear: tuple[float, float]
) -> Tensor:
    """Shifted by pixels, sheared by degrees about the upper left corner, as there."""
    from torchvision.transforms.functional import affine

    moved: Tensor = affine(
        image, 0.0, list(shift), scale=1.0, shear=list(shear), center=[0, 0]
    )
    return moved


def _shear(strength: float) -> float:
    return math.degrees(math.atan(0.3 * strength))


def _by_name(name: str, factor: float) -> Operation:
    """torchvision's adjustment of that name by ``1 + factor * strength``."""

    def adjust(image: Tensor, strength: float) -> Tensor:
        from torchvision.transforms import functional

        changed: Tensor = getattr(functional, name)(image, 1.0 + factor * strength)
        return changed

    return adjust


def _saturation(image: Tensor, strength: float) -> Tensor:
    return (
        image
        if len(image) == 1
        else _by_name("adjust_saturation", 0.9)(image, strength)
    )


def _rotate(image: Tensor, strength: float) -> Tensor:
    from torchvision.transforms.functional import rotate

    turned: Tensor = rotate(image, 30.0 * strength)
    return turned


def _posterize(image: Tensor, strength: float) -> Tensor:
    bits = 8 - round(abs(strength) * (BINS - 1) / ((BINS - 1) / 4))
    return image.bitwise_and(0xFF & ~((1 << (8 - bits)) - 1))


def _solarize(image: Tensor, strength: float) -> Tensor:
    from torchvision.transforms.functional import solarize

    turned: Tensor = solarize(image, 255.0 * (1 - abs(strength)))
    return turned


def _contrast_stretched(image: Tensor, strength: float) -> Tensor:
    from torchvision.transforms.functional import autocontrast

    stretched: Tensor = autocontrast(image)
    return stretched


def _equalized(image: Tensor, strength: float) -> Tensor:
    from torchvision.transforms.functional import equalize

    flat: Tensor = equalize(image)
    return flat


def _shift_x(image: Tensor, strength: float) -> Tensor:
    return _affine(image, (int(150.0 / 331 * image.shape[2] * strength), 0), (0.0, 0.0))


def _shift_y(image: Tensor, strength: float) -> Tensor:
    return _affine(image, (0, int(150.0 / 331 * image.shape[1] * strength)), (0.0, 0.0))


OPERATIONS: dict[str, Operation] = {
    "Identity": lambda image, strength: image,
    "ShearX": lambda image, strength: _affine(image, (0, 0), (_shear(strength), 0.0)),
    "ShearY": lambda image, strength: _affine(image, (0, 0), (0.0, _shear(strength))),
    "TranslateX": _shift_x,
    "TranslateY": _shift_y,
    "Rotate": _rotate,
    "Brightness": _by_name("adjust_brightness", 0.9),
    "Color": _saturation,
    "Contrast": _by_name("adjust_contrast", 0.9),
    "Sharpness": _by_name("adjust_sharpness", 0.9),
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _contrast_stretched,
    "Equalize": _equalized,
}


def rand_augment(
    images: Tensor, noise: SampleNoise, num_operations: int, magnitude: int
) -> Tensor:
    """Every image after operations of its own draws.

    Args:
        images: uint8 ``[batch, C, H, W]``.
        noise: of the samples.
        num_operations: one after the other (the paper's N).
        magnitude: 0 to 30 (its M); which way an operation goes is drawn, too.
    """
    from dathvd.torchvision_shim import torchvision  # noqa: F401 (before its parts)

    kinds = list(OPERATIONS.values())
    draws = noise.uniform((len(images), num_operations, 2), _STREAM).cpu()
    chosen = (draws[:, :, 0] * len(kinds)).long().tolist()
    signs = torch.where(draws[:, :, 1] < 0.5, -1.0, 1.0).tolist()
    strength = magnitude / (BINS - 1)
    changed = images.clone()
    for row, image in enumerate(images):
        for kind, sign in zip(chosen[row], signs[row], strict=True):
            image = kinds[kind](image, sign * strength)
        changed[row] = image
    return changed
