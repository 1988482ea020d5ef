"""Projected gradient descent, the one loop of all gradient attacks here.

Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor, nn

from dathvd.attacks.attack import (
    Attack,
    beside,
    nan_unless_finite,
    on_survivors,
)
from dathvd.attacks.balls import Ball
from dathvd.attacks.forward import Forward
from dathvd.attacks.losses import (
    FROM_CLEAN,
    AttackLoss,
    classes_of,
    cross_entropy,
)
from dathvd.attacks.network import Network, attacked, gradient_at
from dathvd.attacks.problem import Problem
from dathvd.attacks.schedules import STEP_SCHEDULES, TargetRule
from dathvd.attacks.step_graph import step_graph
from dathvd.noise import SampleNoise

_START_STREAM = 100
"""Stream of the first restart; lower ones belong to augmentation and targets."""


class PGD(Attack):
    """Steps of steepest ascent, each projected into the ball and into [0, 1].

    Args:
        ball: the norm and the radius.
        step_size: length of the first step, in pixel units.
        num_steps: gradient steps; 0 returns the start.
        random_start: start from a point drawn in the ball, else from the image.
        start_std: None draws it uniformly, else normally with this deviation.
        restarts: runs from different starts; the highest loss counts.
        loss: what is maximised.
        target: the rule of the class to reach; None flees the label.
        momentum: decay of the gradient accumulated at L1 norm 1 (Dong et al., Boosting
            Adversarial Attacks with Momentum, CVPR 2018, eq. 6).
        schedule: from the share of steps done to the factor of the step size.
        early_stop: leave each image at its first misclassified point.
        forward: the model's mode, layout and precision during the attack.
    """

    def __init__(
        self,
        ball: Ball,
        *,
        step_size: float,
        num_steps: int,
        random_start: bool = True,
        start_std: float | None = None,
        restarts: int = 1,
        loss: AttackLoss = cross_entropy,
        target: TargetRule | None = None,
        momentum: float = 0.0,
        schedule: Callable[[float], float] = STEP_SCHEDULES["constant"],
        early_stop: bool = False,
        forward: Forward = Forward(),
    ) -> None:
        self.ball = ball
        self.step_size = step_size
        self.num_steps = num_steps
        self.random_start = random_start
        self.start_std = start_std
        self.restarts = restarts
        self.loss = loss
        self.target = target
        self.momentum = momentum
        self.schedule = schedule
        self.early_stop = early_stop
        self.forward = forward

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Tensor:
        """The result of highest loss over the restarts, for each image."""
        with self._network(model) as network:
            problem = self._problem(network, images, labels, noise)
            problem = replace(problem, repeats=True)
            worst = self._run(problem, noise, restart=0)
            if self.restarts == 1:
                return worst + problem.flaw
            highest = self._gain(problem, worst)
            for restart in range(1, self.restarts):
                found = self._run(problem, noise, restart)
                gain = self._gain(problem, found)
                better = gain > highest
                highest = torch.where(better, gain, highest)
                worst = torch.where(beside(better, images), found, worst)
        return worst + problem.flaw

    def worst_case(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> tuple[Tensor, Tensor]:
        """The attacked images, and which survive; a restart attacks survivors only."""

        def run(
            restart: int, images: Tensor, labels: Tensor, noise: SampleNoise
        ) -> Tensor:
            with self._network(model) as network:
                problem = self._problem(network, images, labels, noise)
                return self._run(problem, noise, restart)

        return on_survivors(model, images, labels, noise, self.restarts, run)

    def _network(self, model: nn.Module) -> AbstractContextManager[Network]:
        return attacked(model, self.forward)

    def _problem(
        self, network: Network, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Problem:
        images, clean = images.detach(), None
        flaw = images.new_zeros(())
        if self.target is not None or self.loss in FROM_CLEAN:
            with torch.no_grad():
                clean = network(images)
        if self.target is None or clean is None:
            return Problem(network, images, labels, clean, flaw)
        goal = self.target(clean, labels, noise)
        return Problem(network, images, goal, clean, flaw)

    def _run(self, problem: Problem, noise: SampleNoise, restart: int) -> Tensor:
        """One run from its own start."""
        points = self._start(problem.images, noise, restart)
        sizes = [
            self.step_size * self.schedule(step / self.num_steps)
            for step in range(self.num_steps)
        ]
        graph = step_graph(self._advance, self, problem)
        if graph is not None and sizes:
            return graph.run(problem, points, sizes, self.between)
        velocity = torch.zeros_like(points)
        for size in sizes:
            self.between()
            points, velocity = self._advance(problem, points, velocity, size)
        return points

    def _advance(
        self, problem: Problem, points: Tensor, velocity: Tensor, size: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next points and the next velocity; nothing waits for the device."""
        gradient, fooled = self._gradient(problem, points)
        if self.momentum:
            gradient = velocity = self._accumulated(velocity, gradient)
        moved = self._moved(problem, points, gradient, size)
        if self.early_stop:
            moved = torch.where(beside(fooled, points), points, moved)
        return moved, velocity

    def _moved(
        self, problem: Problem, points: Tensor, gradient: Tensor, size: float | Tensor
    ) -> Tensor:
        """The points after one step by that gradient, in the ball."""
        moved = points + size * self.ball.ascent(gradient, points)
        return self.ball.project(moved, problem.images)

    def _accumulated(self, velocity: Tensor, gradient: Tensor) -> Tensor:
        return velocity.mul(self.momentum).add_(_unit_l1(gradient))

    def _start(self, images: Tensor, noise: SampleNoise, restart: int) -> Tensor:
        if not self.random_start:
            return images.clone()
        stream = _START_STREAM + restart
        if self.start_std is None:
            draw = self.ball.uniform(images, noise, stream)
        else:
            draw = noise.normal(images.shape, stream).to(images.dtype) * self.start_std
        return self.ball.project(images + draw, images)

    def _gradient(self, problem: Problem, points: Tensor) -> tuple[Tensor, Tensor]:
        """The ascent gradient ``[batch, ...]``, and where the goal is reached.

        It is taken with respect to the inputs alone: no weight gradient is computed, so
        no hook of a distributed optimizer fires. The losses are summed, not averaged,
        so that a sample's gradient does not depend on the batch.
        """
        with torch.enable_grad():
            inputs = points.detach().requires_grad_()
            logits = problem.network(inputs)
            loss = self.loss(logits, problem.goal, problem.clean).sum()
            gradient = gradient_at(inputs, loss)
        problem.flaw.add_(nan_unless_finite(gradient))
        hit = logits.argmax(dim=1) == classes_of(problem.goal)
        return (gradient, ~hit) if self.target is None else (-gradient, hit)

    def _gain(self, problem: Problem, points: Tensor) -> Tensor:
        """The value that the attack maximises, ``[batch]``."""
        with torch.no_grad():
            logits = problem.network(points)
            loss = self.loss(logits, problem.goal, problem.clean)
        return loss if self.target is None else -loss

    def __repr__(self) -> str:
        return (
            f"PGD({self.ball}, step_size={self.step_size:g}, "
            f"num_steps={self.num_steps}, random_start={self.random_start}, "
            f"restarts={self.restarts})"
        )


def _unit_l1(gradient: Tensor) -> Tensor:
    """The gradient, scaled to L1 norm 1 for each sample."""
    norm = gradient.abs().flatten(1).sum(dim=1)
    return gradient / beside(norm.clamp_min_(torch.finfo(norm.dtype).tiny), gradient)
