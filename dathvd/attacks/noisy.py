"""Single steps from noise beyond the ball, which do not overfit catastrophically."""

from __future__ import annotations

from torch import Tensor

from dathvd.attacks.balls import Ball
from dathvd.noise import SampleNoise

SPREAD = 2.0
"""Radius of the noise over epsilon (de Jorge et al., section 5: CIFAR-10 and SVHN)."""


class NoisyBall(Ball):
    """A ball whose starts are drawn from a larger one, and which lets points leave.

    N-FGSM: de Jorge et al., Make Some Noise: Reliable and Efficient Single-Step
    Adversarial Training, NeurIPS 2022, equation 4. Noise is part of what is trained on,
    so nothing is clipped but to [0, 1].

    Args:
        ball: the norm, and the radius of the step.
        spread: radius of the noise over the ball's.
    """

    def __init__(self, ball: Ball, spread: float = SPREAD) -> None:
        super().__init__(ball.epsilon)
        self._step, self._noise = ball, type(ball)(spread * ball.epsilon)

    def uniform(self, images: Tensor, noise: SampleNoise, stream: int) -> Tensor:
        """A perturbation drawn uniformly from the larger ball."""
        return self._noise.uniform(images, noise, stream)

    def direction(self, gradient: Tensor) -> Tensor:
        """The ball's own unit step."""
        return self._step.direction(gradient)

    def ascent(self, gradient: Tensor, points: Tensor) -> Tensor:
        """The ball's own unit step from points in the box."""
        return self._step.ascent(gradient, points)

    def clip(self, perturbation: Tensor) -> Tensor:
        """The perturbation as it is; a copy, as balls' callers change it."""
        return perturbation.clone()
