"""Multi steepest descent: at each step the ball counts in which the step is worst."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dathvd.attacks.attack import beside
from dathvd.attacks.balls import Ball
from dathvd.attacks.pgd import PGD
from dathvd.attacks.problem import Problem


class MSD(PGD):
    """PGD on a union of balls.

    From the same gradient every ball's steepest step is taken, and projected into that
    ball; of these points each image keeps the one of highest loss (Maini, Wong and
    Kolter, Adversarial Robustness Against the Union of Multiple Perturbation Models,
    ICML 2020, algorithm 1). It starts in the first ball.

    Args:
        balls: the norms and radii.
        step_sizes: length of each ball's first step, in pixel units.
        options: of ``PGD``, apart from its ball and its step size.
    """

    def __init__(
        self, balls: Sequence[Ball], *, step_sizes: Sequence[float], **options: Any
    ) -> None:
        super().__init__(balls[0], step_size=1.0, **options)
        self.balls = list(zip(balls, step_sizes, strict=True))

    def _moved(
        self, problem: Problem, points: Tensor, gradient: Tensor, size: float | Tensor
    ) -> Tensor:
        """The best of all balls' points; ``size`` is the factor of their steps."""
        best, highest = points, None
        for ball, length in self.balls:
            moved = points + (size * length) * ball.ascent(gradient, points)
            moved = ball.project(moved, problem.images)
            gain = self._gain(problem, moved)
            if highest is None:
                best, highest = moved, gain
                continue
            better = gain > highest
            best = torch.where(beside(better, points), moved, best)
            highest = torch.where(better, gain, highest)
        return best

    def __repr__(self) -> str:
        balls = [ball for ball, _ in self.balls]
        return f"MSD({balls}, num_steps={self.num_steps}, restarts={self.restarts})"
