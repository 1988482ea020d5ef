"""Several attacks as one: a union of balls.

Tramèr and Boneh, Adversarial Training and Robustness for Multiple Perturbations,
NeurIPS 2019, section 2: training on the worst ball's image (MAX) or on the mean of the
losses in all balls (AVG). Training on one ball an image, drawn at random, has AVG's
gradient in expectation at the cost of one ball; of a robust network's fine-tuning with
the extreme norms L∞ and L1 a few epochs suffice (Croce and Hein, Adversarial Robustness
against Multiple and Single Lp-Threat Models via Quick Fine-Tuning, ICML 2022, who draw
a ball for each batch, the one with more errors of late more often).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dathvd.attacks.attack import Attack, beside, nan_unless_finite, on_survivors
from dathvd.attacks.losses import FROM_CLEAN, AttackLoss, cross_entropy
from dathvd.attacks.network import in_mode
from dathvd.noise import SampleNoise

Combine = Literal["max", "average", "sample"]
_CHOICE_STREAM = 98


class Union(Attack):
    """One attack for each ball.

    Args:
        attacks: by the name of the ball.
        combine: what is trained on: the image of highest loss (max), all of them, as
            one batch after the other (average), or one ball's, drawn for each image
            (sample; it waits for the device, to run each attack on its own images).
            An evaluation takes the worst of all balls in any case.
        loss: what max compares.
    """

    def __init__(
        self,
        attacks: Mapping[str, Attack],
        *,
        combine: Combine = "max",
        loss: AttackLoss = cross_entropy,
    ) -> None:
        self.attacks = dict(attacks)
        self.combine = combine
        self.loss = loss
        self.variants = len(self.attacks) if combine == "average" else 1
        self.reach = max(attack.reach for attack in self.attacks.values())
        parts = [attack.description for attack in self.attacks.values()]
        how = {"max": "the worst", "average": "each", "sample": "one at random"}
        self.description = f"{how[combine]} of: {'; '.join(parts)}"

    @property
    def stages(self) -> Mapping[str, Attack]:
        """The stages of all attacks, one ball after the other."""
        return {
            f"{ball}/{stage}".rstrip("/"): each
            for ball, attack in self.attacks.items()
            for stage, each in attack.stages.items()
        }

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "between":  # the gradient steps are the attacks'
            for attack in self.attacks.values():
                attack.between = value

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Tensor:
        """The attacked images; ``[variants * batch, ...]`` where all are trained on."""
        if self.combine == "sample":
            return self._drawn(model, images, labels, noise)
        found = [
            attack(model, images, labels, noise) for attack in self.attacks.values()
        ]
        if self.combine == "average":
            return torch.cat(found)
        flaw = sum(nan_unless_finite(each) for each in found)
        return self._worst(model, images, labels, found) + flaw

    def worst_case(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> tuple[Tensor, Tensor]:
        """Each attack on what survived those before it."""
        attacks = list(self.attacks.values())

        def run(
            number: int, images: Tensor, labels: Tensor, noise: SampleNoise
        ) -> Tensor:
            return attacks[number].worst_case(model, images, labels, noise)[0]

        return on_survivors(model, images, labels, noise, len(attacks), run)

    def _worst(
        self, model: nn.Module, images: Tensor, labels: Tensor, found: list[Tensor]
    ) -> Tensor:
        """The image of highest loss, of the first ball among equals."""
        with in_mode(model, training=False) as network, torch.no_grad():
            clean = network(images) if self.loss in FROM_CLEAN else None
            gains = [self.loss(network(each), labels, clean) for each in found]
        worst, highest = found[0], gains[0]
        for each, gain in zip(found[1:], gains[1:], strict=True):
            better = gain > highest
            worst = torch.where(beside(better, images), each, worst)
            highest = torch.where(better, gain, highest)
        return worst

    def _drawn(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Tensor:
        """One ball's image for each, all balls equally likely."""
        count = len(self.attacks)
        draw = noise.uniform((len(images),), _CHOICE_STREAM).mul_(count).long()
        points = images.detach().clone()
        for number, attack in enumerate(self.attacks.values()):
            own = (draw == number).nonzero().squeeze(1)
            if len(own):
                few = noise.select(own)
                points[own] = attack(model, images[own], labels[own], few)
        return points + nan_unless_finite(points)

    def __repr__(self) -> str:
        return f"Union({list(self.attacks.values())}, combine={self.combine!r})"
