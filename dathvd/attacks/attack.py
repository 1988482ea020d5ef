"""The interface of every attack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dathvd.attacks.network import in_mode
from dathvd.noise import SampleNoise


class Attack(ABC):
    """Finds images near the given ones that a model gets wrong."""

    replays: int = 1
    """Updates that the training loop makes on each batch, one attack call each."""
    between: Callable[[], object] = staticmethod(lambda: None)
    """Called before each gradient step: the training loop moves exchanges on there."""
    reach: float = 1.0
    """How far attacked images lie from the given ones at most, as a multiple of the
    radius; above 1 for attacks that train on more noise than the ball holds."""

    variants: int = 1
    """How many attacked images each image has, whose losses are averaged: a call in
    training gives ``[variants * batch, ...]``, one batch after the other."""

    _description = ""

    @property
    def description(self) -> str:
        """The attack with its settings in words, for tables and results."""
        return self._description or repr(self)

    @description.setter
    def description(self, words: str) -> None:
        self._description = words

    @property
    def stages(self) -> Mapping[str, Attack]:
        """Attacks by name that make up an evaluation's, each for what is left by those
        before it: between them images may be regrouped."""
        return {"": self}

    def undo(self) -> None:
        """Forget the calls of the last step, which was skipped."""

    @abstractmethod
    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Tensor:
        """The attacked images, for training: no host synchronisation.

        Args:
            model: from images to logits; left as it was, also on errors.
            images: float ``[batch, ...]`` in [0, 1].
            labels: int64 ``[batch]``.
            noise: the only source of randomness.

        Returns:
            Images of the same shape, in the ball and in [0, 1], detached. All are NaN
            where a gradient that a step followed was not finite: the training step then
            has no finite gradient either, and is skipped as any such step is.
        """

    @abstractmethod
    def worst_case(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> tuple[Tensor, Tensor]:
        """The attacked images, for evaluation, and which of them the model survives.

        Returns:
            The images as above, and bool ``[batch]``: the model, in eval mode, is right
            on the clean image and on the result of every restart.
        """


class JudgingAttack(Attack):
    """One for evaluation alone: its images are those that it judges by."""

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Tensor:
        """The images of ``worst_case``, which may wait for the device."""
        return self.worst_case(model, images, labels, noise)[0]


class NoAttack(Attack):
    """Leaves the images as they are."""

    _description = "none"

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Tensor:
        """The images themselves."""
        return images.detach()

    def worst_case(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> tuple[Tensor, Tensor]:
        """The images, and where the model is right on them."""
        return images.detach(), correct_on(model, images, labels)

    def __repr__(self) -> str:
        return "NoAttack()"


def correct_on(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Bool ``[batch]``: the model, in eval mode, predicts the label.

    NaN predicts nothing, where argmax would take it for the largest logit.
    """
    with in_mode(model, training=False) as network, torch.no_grad():
        logits: Tensor = network(images)
    return (logits.argmax(dim=1) == labels) & ~logits.isnan().any(dim=1)


Round = Callable[[int, Tensor, Tensor, SampleNoise], Tensor]
"""(number of the round, images ``[n, ...]``, labels ``[n]``, their noise) to attacked
images."""


def on_survivors(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    noise: SampleNoise,
    num_rounds: int,
    attack: Round,
) -> tuple[Tensor, Tensor]:
    """Attack in rounds, each on the images that survived those before it.

    Returns:
        The attacked images, and bool ``[batch]``: which survived all rounds.
    """
    worst = images.detach().clone()
    correct = correct_on(model, images, labels)
    for number in range(num_rounds):
        left = correct.nonzero().squeeze(1)
        if len(left) == 0:
            break
        own = noise.select(left)
        worst[left] = attack(number, images[left].detach(), labels[left], own)
        correct[left] = correct_on(model, worst[left], labels[left])
    return worst, correct


def beside(values: Tensor, images: Tensor) -> Tensor:
    """``[batch]`` as ``[batch, 1, ...]``, to broadcast over images."""
    return values.view((len(images),) + (1,) * (images.dim() - 1))


def nan_unless_finite(gradient: Tensor) -> Tensor:
    """A scalar: 0 where all of the gradient is finite, else NaN; waits for nothing.

    The sign of NaN is 0: without it a broken gradient would pass for one of no length.
    """
    return (gradient * 0).sum()
