"""PGD that sets its own step size: Auto-PGD.

Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of
Diverse Parameter-free Attacks, ICML 2020, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Self

import torch
from torch import Tensor, nn

from dathvd.attacks.attack import (
    Attack,
    beside,
    nan_unless_finite,
    on_survivors,
)
from dathvd.attacks.balls import Ball, L1Ball, LinfBall, sparse_signs
from dathvd.attacks.forward import Forward
from dathvd.attacks.losses import (
    FROM_CLEAN,
    AttackLoss,
    classes_of,
    cross_entropy,
)
from dathvd.attacks.network import Network, attacked
from dathvd.noise import SampleNoise

_START_STREAM = 100
_MOMENTUM = 0.75
"""Share of the new direction in a step; the rest follows the step before it."""
_FIRST_SHARE, _SPARSER, _SHORTER, _SHORTEST = 0.2, 0.95, 1.5, 10.0
"""In an L1 ball: the share of values that the first steps change, the ratio of changed
values that counts as sparser, and the factors of steps and of the shortest one."""


class APGD(Attack):
    """Gradient steps with momentum, halved where they no longer raise the loss.

    Args:
        ball: the norm and the radius; the first step is twice as long.
        num_steps: gradient steps.
        restarts: runs from different starts.
        loss: what is maximised.
        rho: share of steps that must raise the loss, else the step is halved.
        forward: how the network runs while it is attacked.
        stream: of the first start's random numbers.
    """

    def __init__(
        self,
        ball: Ball,
        *,
        num_steps: int,
        restarts: int = 1,
        loss: AttackLoss = cross_entropy,
        rho: float = 0.75,
        forward: Forward = Forward(),
        stream: int = _START_STREAM,
    ) -> None:
        self.ball = ball
        self.num_steps = num_steps
        self.restarts = restarts
        self.loss = loss
        self.rho = rho
        self.forward = forward
        self.stream = stream

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Tensor:
        """The points of highest loss that any run has passed."""
        images = images.detach()
        flaw = images.new_zeros(())
        with attacked(model, self.forward) as network:
            found = self._climb(network, images, labels, noise, 0)
            for restart in range(1, self.restarts):
                flaw = flaw + found.flaw
                other = self._climb(network, images, labels, noise, restart)
                better = other.best_loss > found.best_loss
                other.best = torch.where(beside(better, images), other.best, found.best)
                other.best_loss = torch.where(better, other.best_loss, found.best_loss)
                found = other
        return found.best + (flaw + found.flaw)

    def worst_case(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> tuple[Tensor, Tensor]:
        """The first point of each image that fools the model, else the image."""

        def run(
            restart: int, images: Tensor, labels: Tensor, noise: SampleNoise
        ) -> Tensor:
            found = images.clone()
            with attacked(model, self.forward) as network:
                clean = self._clean(network, images)
                start = self._start(images, noise, restart)
                for places, points in fallen(
                    network, images, labels, clean, start, self
                ):
                    found[places] = points
            return found

        return on_survivors(model, images, labels, noise, self.restarts, run)

    def _climb(
        self,
        network: Network,
        images: Tensor,
        labels: Tensor,
        noise: SampleNoise,
        restart: int,
    ) -> Climb:
        """One run with all images to its end; nothing waits for the device."""
        clean = self._clean(network, images)
        points = self._start(images, noise, restart)
        climb = self.climb.begin(network, images, labels, clean, points, self)
        for halve in self.windows():
            self.between()
            climb.step(network, self)
            if halve:
                climb.check(halve, self.rho)
        return climb

    @property
    def climb(self) -> type[Climb]:
        """How a run goes in this ball."""
        return SparseClimb if isinstance(self.ball, L1Ball) else Climb

    def windows(self) -> Iterator[int]:
        """For each step 0, or the length of the window that it ends."""
        if isinstance(self.ball, L1Ball):
            return even_windows(self.num_steps)
        return windows(self.num_steps)

    def _clean(self, network: Network, images: Tensor) -> Tensor | None:
        if self.loss not in FROM_CLEAN:
            return None
        with torch.no_grad():
            return network(images)

    def _start(self, images: Tensor, noise: SampleNoise, restart: int) -> Tensor:
        return surface_point(self.ball, images, noise, self.stream + restart)

    def __repr__(self) -> str:
        return f"APGD({self.ball}, num_steps={self.num_steps}, rho={self.rho:g})"


def surface_point(
    ball: Ball, images: Tensor, noise: SampleNoise, stream: int
) -> Tensor:
    """A random point at distance epsilon, clamped to [0, 1]; in an L1 ball the nearest
    one to a normal point."""
    if isinstance(ball, L1Ball):
        draw = noise.normal(images.shape, stream).to(images.dtype)
        return ball.project(images + draw, images)
    if isinstance(ball, LinfBall):
        draw = noise.uniform(images.shape, stream).to(images.dtype).mul_(2).sub_(1)
        unit = draw / beside(draw.flatten(1).abs().amax(dim=1), draw)
    else:
        unit = ball.direction(noise.normal(images.shape, stream).to(images.dtype))
    return (images + ball.epsilon * unit).clamp_(0.0, 1.0)


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


def even_windows(num_steps: int) -> Iterator[int]:
    """The same in an L1 ball (Croce and Hein, Mind the Box, ICML 2021, section 3)."""
    length = max(int(0.04 * num_steps), 1)
    for done in range(1, num_steps + 1):
        yield 0 if done % length else length


def fallen(
    network: Network,
    images: Tensor,
    labels: Tensor,
    extra: Tensor | None,
    points: Tensor,
    attack: APGD,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Run from ``points``; images leave at their first misclassified point.

    Args:
        extra: what the loss takes beside logits and labels, one row for each image.

    Yields:
        Places int64 ``[n]`` in ``images``, and the points ``[n, ...]``.
    """
    climb = attack.climb.begin(network, images, labels, extra, points, attack)
    places = torch.arange(len(images), device=images.device)
    for window in (0, *attack.windows()):
        if climb.moves:
            climb.step(network, attack)
        climb.moves = True
        down = climb.fooled.nonzero().squeeze(1)
        if len(down):
            yield places[down], climb.points[down]
            left = (~climb.fooled).nonzero().squeeze(1)
            if len(left) == 0:
                return
            places, climb = places[left], climb.select(left)
        if window:
            climb.check(window, attack.rho)


@dataclass
class Climb:
    """Where one run of Auto-PGD is; all tensors but ``flaw`` have a row an image."""

    images: Tensor
    labels: Tensor
    extra: Tensor | None
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
        attack: APGD,
    ) -> Self:
        """At the start, whose loss and gradient are taken."""
        loss, gradient, fooled = ascent(network, points, labels, extra, attack.loss)
        return cls(
            images=images,
            labels=labels,
            extra=extra,
            points=points,
            previous=points,
            gradient=gradient,
            fooled=fooled,
            best=points,
            best_gradient=gradient,
            best_loss=loss,
            # the published code compares the first step's loss with 0
            last_loss=torch.zeros_like(loss),
            rises=torch.zeros_like(loss),
            size=torch.full_like(loss, 2 * attack.ball.epsilon),
            checked_loss=loss,
            halved=torch.ones_like(fooled),
            flaw=nan_unless_finite(gradient),
        )

    def step(self, network: Network, attack: APGD) -> None:
        """One gradient step, whose loss and gradient are taken."""
        images, ahead = self.images, self.ahead(attack.ball)
        self.moves = True
        self.previous, self.points = self.points, ahead
        loss, self.gradient, self.fooled = ascent(
            network, ahead, self.labels, self.extra, attack.loss
        )
        self.flaw = self.flaw + nan_unless_finite(self.gradient)
        self.rises = self.rises + (loss > self.last_loss)
        self.last_loss = loss
        better = loss > self.best_loss
        wide = beside(better, images)
        self.best = torch.where(wide, ahead, self.best)
        self.best_gradient = torch.where(wide, self.gradient, self.best_gradient)
        self.best_loss = torch.where(better, loss, self.best_loss)

    def ahead(self, ball: Ball) -> Tensor:
        """The next points, with momentum (equations 1 and 2)."""
        images, points = self.images, self.points
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
    epsilon: float = 0.0

    @classmethod
    def begin(
        cls,
        network: Network,
        images: Tensor,
        labels: Tensor,
        extra: Tensor | None,
        points: Tensor,
        attack: APGD,
    ) -> Self:
        """At the start, whose loss and gradient are taken."""
        climb = super().begin(network, images, labels, extra, points, attack)
        count = math.prod(images.shape[1:])
        climb.epsilon = attack.ball.epsilon
        climb.size = torch.full_like(climb.size, climb.epsilon)
        climb.kept = torch.full_like(climb.size, _FIRST_SHARE * count)
        climb.changed = torch.full_like(climb.size, count)
        return climb

    def ahead(self, ball: Ball) -> Tensor:
        """The next points; momentum would fill up what is sparse."""
        step = beside(self.size, self.points) * sparse_signs(self.gradient, self.kept)
        return ball.project(self.points + step, self.images)

    def check(self, window: int, rho: float) -> None:
        """Begin anew from the best points where they have become sparser, else take
        shorter steps."""
        changed = (self.best != self.images).flatten(1).sum(dim=1).to(self.size)
        sparser = changed / self.changed < _SPARSER
        shorter = (self.size / _SHORTER).clamp_min_(self.epsilon / _SHORTEST)
        self.size = torch.where(sparser, self.epsilon, shorter)
        self.kept, self.changed = changed / _SHORTER, changed
        wide = beside(sparser, self.points)
        self.points = torch.where(wide, self.best, self.points)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)


def ascent(
    network: Network,
    points: Tensor,
    labels: Tensor,
    extra: Tensor | None,
    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss ``[batch]``, its gradient, and where the network is wrong."""
    with torch.enable_grad():
        inputs = points.detach().requires_grad_()
        logits = network(inputs)
        values = loss(logits, labels, extra)
        (gradient,) = torch.autograd.grad(values.sum(), inputs)
    return (
        values.detach(),
        gradient,
        logits.detach().argmax(dim=1) != classes_of(labels),
    )
