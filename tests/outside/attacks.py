"""An attack of a user's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dathvd.attacks import Attack
from dathvd.attacks.attack import correct_on
from dathvd.config import AttackConfig
from dathvd.noise import SampleNoise


class Corner(Attack):
    """A random corner of the linf ball, or of the cube within the l2 or l1 ball.

    Args:
        config: its epsilon is the radius.
        stream: of the random draws.
    """

    def __init__(self, config: AttackConfig, *, stream: int = 7) -> None:
        self.norm, self.epsilon, self.stream = config.norm, config.epsilon, stream

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Tensor:
        """The corner, cut to [0, 1]."""
        signs = (noise.uniform(images.shape, self.stream) - 0.5).sign()
        pixels = images[0].numel() if len(images) else 1
        step = self.epsilon / pixels ** {"linf": 0.0, "l2": 0.5, "l1": 1.0}[self.norm]
        moved: Tensor = (images + step * signs.to(images.dtype)).clamp(0, 1)
        return moved.detach()

    def worst_case(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> tuple[Tensor, Tensor]:
        """The corner, and where the model is right on it and on the image."""
        corner = self(model, images, labels, noise)
        right = correct_on(model, images, labels) & correct_on(model, corner, labels)
        return corner, right

    def __repr__(self) -> str:
        return f"Corner(epsilon={self.epsilon:g})"


def no_attack(config: AttackConfig) -> torch.Tensor:
    """What is no attack, for the refusal of it."""
    return torch.zeros(())
