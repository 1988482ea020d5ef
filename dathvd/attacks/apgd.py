"""PGD that sets its own step size: Auto-PGD.

Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of
Diverse Parameter-free Attacks, ICML 2020, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dathvd.attacks.attack import Attack, beside, on_survivors
from dathvd.attacks.balls import Ball, L1Ball, LinfBall
from dathvd.attacks.climb import Climb, climb_in
from dathvd.attacks.forward import Forward
from dathvd.attacks.losses import FROM_CLEAN, AttackLoss, cross_entropy
from dathvd.attacks.network import Network, attacked
from dathvd.noise import SampleNoise

_START_STREAM = 100


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
        warm: whether runs are begun from points that an attack has found; in an L1
            ball they then are as sparse as these.
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
        warm: bool = False,
    ) -> None:
        self.ball = ball
        self.num_steps = num_steps
        self.restarts = restarts
        self.loss = loss
        self.rho = rho
        self.forward = forward
        self.stream = stream
        self.warm = warm

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
        return self.climb(network, images, labels, clean, points)

    def climb(
        self,
        network: Network,
        images: Tensor,
        labels: Tensor,
        extra: Tensor | None,
        points: Tensor,
    ) -> Climb:
        """A run from ``points`` to its end; the rest is as ``begin`` takes it."""
        climb = self.begin(network, images, labels, extra, points)
        for window in climb.windows(self.num_steps):
            self.between()
            climb.step(network)
            if window:
                climb.check(window, self.rho)
        return climb

    def begin(
        self,
        network: Network,
        images: Tensor,
        labels: Tensor,
        extra: Tensor | None,
        points: Tensor,
    ) -> Climb:
        """A run at its start; ``extra`` is what the loss takes beside logits and
        labels, one row for each image."""
        kind, ball = climb_in(self.ball), self.ball
        return kind.begin(
            network, images, labels, extra, points, ball, self.loss, warm=self.warm
        )

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
    climb = attack.begin(network, images, labels, extra, points)
    places = torch.arange(len(images), device=images.device)
    for window in (0, *climb.windows(attack.num_steps)):
        if climb.moves:
            climb.step(network)
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
