"""Rotations and translations: the worst of a grid of them.

Engstrom, Tran, Tsipras, Schmidt and Madry, Exploring the Landscape of Spatial
Robustness, ICML 2019: 5 shifts along each side by up to 3 pixels of 32, 31 angles up to
30 degrees, and a search over all that needs no gradients, which point nowhere here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from dathvd.attacks.attack import JudgingAttack, on_survivors
from dathvd.evaluation.attack_kind import EvaluationAttack
from dathvd.noise import SampleNoise

MAX_ANGLE = 30.0
"""Degrees."""
MAX_SHIFT = 0.1
"""Of a side's length, in whole pixels."""
_ANGLES, _SHIFTS = 31, 5


def moved(images: Tensor, angle: float, shift: tuple[float, float]) -> Tensor:
    """Images rotated about their middle, then shifted; black comes in.

    Args:
        images: ``[batch, C, H, W]``.
        angle: in degrees, counter-clockwise.
        shift: pixels to the right and down.
    """
    height, width = images.shape[2:]
    turn = math.radians(angle)
    cos, sin = math.cos(turn), math.sin(turn)
    right, down = 2 * shift[0] / width, 2 * shift[1] / height
    # from where each pixel is taken, in units of half sides
    tall = height / width
    where = [
        [cos, -sin * tall, -cos * right + sin * tall * down],
        [sin / tall, cos, -sin / tall * right - cos * down],
    ]
    affine = images.new_tensor(where).expand(len(images), 2, 3)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).clamp_(0.0, 1.0)


def places(height: int, width: int) -> Iterator[tuple[float, tuple[float, float]]]:
    """Every angle and shift of the grid, large ones first: they fool most often."""
    shares = [2 * place / (_SHIFTS - 1) - 1 for place in range(_SHIFTS)]
    angles = [MAX_ANGLE * (2 * n / (_ANGLES - 1) - 1) for n in range(_ANGLES)]
    grid = [
        (angle, (x * round(MAX_SHIFT * width), y * round(MAX_SHIFT * height)))
        for angle in angles
        for x in shares
        for y in shares
    ]
    yield from sorted(grid, key=lambda each: (-abs(each[0]), each))


class Spatial(JudgingAttack):
    """The first rotation and translation of the grid that the model gets wrong."""

    _description = (
        f"spatial: {_ANGLES} angles up to {MAX_ANGLE:g}°, {_SHIFTS}x{_SHIFTS} shifts "
        f"up to {100 * MAX_SHIFT:g} % of a side"
    )

    def worst_case(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> tuple[Tensor, Tensor]:
        """Only images that survived so far are moved on.

        The images are the first of each that the model gets wrong, else the last.
        """
        grid = list(places(*images.shape[2:]))

        def move(
            number: int, images: Tensor, labels: Tensor, noise: SampleNoise
        ) -> Tensor:
            return moved(images, *grid[number])

        return on_survivors(model, images, labels, noise, len(grid), move)

    def __repr__(self) -> str:
        return "Spatial()"


SPATIAL = EvaluationAttack(
    build=lambda settings, num_classes: Spatial(),
    describe=lambda settings: Spatial().description,
    fixed={"restarts": 1, "num_steps": 1},
    in_a_ball=False,
)
