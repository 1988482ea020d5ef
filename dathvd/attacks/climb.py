"""The state of one run of Auto-PGD: its steps, and the windows that judge them.

Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of
Diverse Parameter-free Attacks, ICML 2020, algorithm 1; in L1 balls Mind the Box, ICML
2021, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Self

import torch
from torch import Tensor

from dathvd.attacks.attack import beside, nan_unless_finite
from dathvd.attacks.balls import Ball, L1Ball, sparse_signs
from dathvd.attacks.losses import AttackLoss, classes_of
from dathvd.attacks.network import Network, gradient_at

_MOMENTUM = 0.75
"""Share of the new direction in a step; the rest follows the step before it."""
_FIRST_SHARE, _SPARSER, _SHORTER, _SHORTEST = 0.2, 0.95, 1.5, 10.0
"""In an L1 ball: the share of values that the first steps change, the ratio of changed
values that counts as sparser, and the factors of steps and of the shortest one."""


@dataclass
class Climb:
    """Where one run of Auto-PGD is; all tensors but ``flaw`` have a row an image."""

    ball: Ball
    loss: AttackLoss
    images: Tensor
    labels: Tensor
    extra: Tensor | None
    """What the loss takes beside logits and labels."""
    points: Tensor
    previous: Tensor
    """The points before the last step."""
    gradient: Tensor
    fooled: Tensor
    """The network is wrong on ``points``."""
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    last_loss: Tensor
    rises: Tensor
    """Steps of this window that raised the loss."""
    size: Tensor
    checked_loss: Tensor
    """The highest loss at the window before."""
    halved: Tensor
    """The window before ended with a shorter step, or there was none."""
    flaw: Tensor
    moves: bool = False

    @classmethod
    def begin(
        cls,
        network: Network,
        images: Tensor,
        labels: Tensor,
        extra: Tensor | None,
        points: Tensor,
        ball: Ball,
        loss: AttackLoss,
        *,
        warm: bool = False,
    ) -> Self:
        """At the start, whose loss and gradient are taken; ``warm`` if an attack has
        found the points."""
        values, gradient, fooled = ascent(network, points, labels, extra, loss)
        climb = cls(
            ball=ball,
            loss=loss,
            images=images,
            labels=labels,
            extra=extra,
            points=points,
            previous=points,
            gradient=gradient,
            fooled=fooled,
            best=points,
            best_gradient=gradient,
            best_loss=values,
            # the published code compares the first step's loss with 0
            last_loss=torch.zeros_like(values),
            rises=torch.zeros_like(values),
            size=torch.full_like(values, 2 * ball.epsilon),
            checked_loss=values,
            halved=torch.ones_like(fooled),
            flaw=nan_unless_finite(gradient),
        )
        climb.set_out(warm)
        return climb

    def set_out(self, warm: bool) -> None:
        """Set what a run in this ball begins with otherwise: nothing here."""

    @staticmethod
    def windows(num_steps: int) -> Iterator[int]:
        """For each step 0, or the length of the window that it ends (section 3.1)."""
        length = max(int(0.22 * num_steps), 1)
        shorter, least = max(int(0.03 * num_steps), 1), max(int(0.06 * num_steps), 1)
        done = 0
        for _ in range(num_steps):
            done += 1
            yield length if done == length else 0
            if done == length:
                length, done = max(length - shorter, least), 0

    def step(self, network: Network) -> None:
        """One gradient step, whose loss and gradient are taken."""
        images, ahead = self.images, self.ahead()
        self.moves = True
        self.previous, self.points = self.points, ahead
        loss, self.gradient, self.fooled = ascent(
            network, ahead, self.labels, self.extra, self.loss
        )
        self.flaw = self.flaw + nan_unless_finite(self.gradient)
        self.rises = self.rises + (loss > self.last_loss)
        self.last_loss = loss
        better = loss > self.best_loss
        wide = beside(better, images)
        self.best = torch.where(wide, ahead, self.best)
        self.best_gradient = torch.where(wide, self.gradient, self.best_gradient)
        self.best_loss = torch.where(better, loss, self.best_loss)

    def ahead(self) -> Tensor:
        """The next points, with momentum (equations 1 and 2)."""
        ball, images, points = self.ball, self.images, self.points
        size = beside(self.size, points)
        ahead = ball.project(points + size * ball.direction(self.gradient), images)
        if self.moves:
            pull = (points - self.previous).mul_(1 - _MOMENTUM)
            mixed = points + (ahead - points).mul_(_MOMENTUM) + pull
            ahead = ball.project(mixed, images)
        return ahead

    def check(self, window: int, rho: float) -> None:
        """Halve steps and go back to the best point (conditions 1 and 2)."""
        seldom = self.rises <= rho * window
        stuck = ~self.halved & (self.checked_loss >= self.best_loss)
        self.halved = seldom | stuck
        self.checked_loss = self.best_loss
        self.rises = torch.zeros_like(self.rises)
        self.size = torch.where(self.halved, self.size / 2, self.size)
        wide = beside(self.halved, self.points)
        self.points = torch.where(wide, self.best, self.points)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)

    def select(self, left: Tensor) -> Self:
        """The run of some of the images, by their places."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        rows = {
            name: value[left]
            for name, value in values.items()
            if isinstance(value, Tensor) and name != "flaw"
        }
        return type(self)(**{**values, **rows})


@dataclass
class SparseClimb(Climb):
    """A run in an L1 ball: each step changes a share of the values, which follows how
    many of them the best point has changed (Croce and Hein, ICML 2021, algorithm 1)."""

    kept: Tensor = field(default_factory=lambda: torch.empty(0))
    """How many values a step changes, ``[batch]``."""
    changed: Tensor = field(default_factory=lambda: torch.empty(0))
    """How many values the best point of the check before has changed."""

    def set_out(self, warm: bool) -> None:
        """From steps of epsilon, which change a fifth of the values; from points that
        were found, a share of those that they have changed."""
        count = math.prod(self.images.shape[1:])
        self.size = torch.full_like(self.size, self.ball.epsilon)
        if warm:
            self.changed = self._num_changed(self.points)
            self.kept = self.changed / _SHORTER
        else:
            self.changed = torch.full_like(self.size, count)
            self.kept = torch.full_like(self.size, _FIRST_SHARE * count)

    @staticmethod
    def windows(num_steps: int) -> Iterator[int]:
        """The same with windows of one length (section 3)."""
        length = max(int(0.04 * num_steps), 1)
        for done in range(1, num_steps + 1):
            yield 0 if done % length else length

    def ahead(self) -> Tensor:
        """The next points; momentum would fill up what is sparse."""
        step = beside(self.size, self.points) * sparse_signs(self.gradient, self.kept)
        return self.ball.project(self.points + step, self.images)

    def check(self, window: int, rho: float) -> None:
        """Begin anew from the best points where they have become sparser, else take
        shorter steps."""
        changed = self._num_changed(self.best)
        sparser = changed / self.changed < _SPARSER
        first = self.ball.epsilon
        shorter = (self.size / _SHORTER).clamp_min_(first / _SHORTEST)
        self.size = torch.where(sparser, first, shorter)
        self.kept, self.changed = changed / _SHORTER, changed
        wide = beside(sparser, self.points)
        self.points = torch.where(wide, self.best, self.points)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)

    def _num_changed(self, points: Tensor) -> Tensor:
        """How many values of each image the points have changed."""
        return (points != self.images).flatten(1).sum(dim=1).to(self.size)


def ascent(
    network: Network,
    points: Tensor,
    labels: Tensor,
    extra: Tensor | None,
    loss: AttackLoss,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss ``[batch]``, its gradient, and where the network is wrong."""
    with torch.enable_grad():
        inputs = points.detach().requires_grad_()
        logits = network(inputs)
        values = loss(logits, labels, extra)
        gradient = gradient_at(inputs, values.sum())
    return (
        values.detach(),
        gradient,
        logits.detach().argmax(dim=1) != classes_of(labels),
    )


def climb_in(ball: Ball) -> type[Climb]:
    """How a run goes in a ball."""
    return SparseClimb if isinstance(ball, L1Ball) else Climb
