"""The four attacks of the standard version, and the order that they come in.

Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of
Diverse Parameter-free Attacks, ICML 2020: APGD on the cross-entropy, targeted APGD on
the DLR loss, targeted FAB, and Square with 5,000 queries, each on what is left. In L1
balls, as they give them in Mind the Box (ICML 2021), APGD nears the ball from larger
ones, with five starts and five targets. What is here is this package's own code of
it: an image leaves an attack as soon as it falls and its random numbers are its own, so
that images may be grouped in any way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from dathvd.attacks import BALLS, Attack
from dathvd.attacks.apgd import APGD, fallen, surface_point
from dathvd.attacks.attack import JudgingAttack, correct_on
from dathvd.attacks.balls import Ball
from dathvd.attacks.forward import Forward
from dathvd.attacks.losses import cross_entropy, dlr_to_target
from dathvd.attacks.network import Network, attacked
from dathvd.convolutions import kernel_for
from dathvd.errors import UserError, choose
from dathvd.evaluation.attack_kind import EvaluationAttack, place
from dathvd.evaluation.autoattack.doubts import doubts_of
from dathvd.evaluation.autoattack.fab import fab
from dathvd.evaluation.autoattack.square import square
from dathvd.noise import SampleNoise

NUM_STEPS = 100
_STREAM = 20_000
_STREAMS_APART = 20_000
_STARTS_APART = 100
_TARGETS = 9
"""Classes that the targeted attacks aim at, where there are so many wrong ones."""
_MIN_CLASSES = 4
"""The targeted DLR loss divides by a difference of the four highest logits."""

Found = Iterator[tuple[Tensor, Tensor]]
"""Places of images in a batch, and points that fool the network there."""
Search = Callable[[Network, Tensor, Tensor, SampleNoise], Found]
"""One attack of the four on images that the network gets right."""


def exact(model: nn.Module, device: torch.device) -> Forward:
    """How the same function, up to rounding, runs fastest.

    On processors channels-last layout pays where Winograd's convolutions run, which
    have it themselves. torch's own of few channels are slower in it: a gradient of the
    digits' network by a third.
    """
    winograd = any(kernel_for(layer) for layer in model.modules())
    return Forward(
        channels_last=winograd or device.type != "cpu",
        fold_batch_norm=True,
        winograd=True,
    )


@dataclass(frozen=True)
class Runs:
    """The runs of APGD in a ball."""

    starts: int
    """Of the untargeted attack."""
    targets: int
    """Classes that the targeted attack aims at, where there are so many wrong ones."""
    phases: Sequence[tuple[int, int]]
    """How a run nears the ball: radii, as multiples of the ball's, and steps there."""


_IN_L1 = Runs(starts=5, targets=5, phases=((3, 30), (2, 30), (1, 40)))
_ELSEWHERE = Runs(starts=1, targets=_TARGETS, phases=((1, NUM_STEPS),))


class Stage(JudgingAttack):
    """One of the four attacks on its own.

    Args:
        name: as its authors call it.
        search: the attack.
        ball: the norm and the radius.
        forward: how the network runs while it is attacked; None takes ``exact``.
            Verdicts are the network's own.
    """

    def __init__(
        self, name: str, search: Search, ball: Ball, forward: Forward | None = None
    ) -> None:
        self.name = name
        self.search = search
        self.ball = ball
        self.forward = forward

    def worst_case(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> tuple[Tensor, Tensor]:
        """What the search finds, put into the ball, and judged there."""
        worst = images.detach().clone()
        correct = correct_on(model, images, labels)
        left = correct.nonzero().squeeze(1)
        if len(left) == 0:
            return worst, correct
        targets = images[left].detach(), labels[left]
        forward = self.forward or exact(model, images.device)
        with attacked(model, forward) as network:
            for places, points in self.search(network, *targets, noise.select(left)):
                own = left[places]
                worst[own] = self.ball.project(points, worst[own])
                correct[own] = False
        fell = left[~correct[left]]
        if len(fell):
            correct[fell] = correct_on(model, worst[fell], labels[fell])
        return worst, correct

    def __repr__(self) -> str:
        return f"Stage({self.name}, {self.ball})"


class AutoAttack(JudgingAttack):
    """The standard version.

    Args:
        norm: linf, l2 or l1.
        epsilon: the radius, in pixel units, above 0.
        num_classes: of the task, at least 4.
        forward: how the network runs while it is attacked; None takes ``exact``.

    Raises:
        UserError: there are too few classes.
    """

    def __init__(
        self,
        norm: str,
        epsilon: float,
        *,
        num_classes: int,
        forward: Forward | None = None,
    ) -> None:
        if num_classes < _MIN_CLASSES:
            raise UserError(
                f"attack autoattack: the targeted DLR loss needs {_MIN_CLASSES} "
                f"classes, this task has {num_classes}; use pgd and pgd-margin"
            )
        self.ball = choose("attack.norm", norm, BALLS)(epsilon)
        self.runs = _IN_L1 if self.ball.order == 1 else _ELSEWHERE
        searches: dict[str, Search] = {
            "apgd-ce": self._apgd_ce,
            "apgd-t": self._apgd_t,
            "fab-t": self._fab_t,
            "square": self._square,
        }
        self._stages = {
            name: Stage(name, search, self.ball, forward)
            for name, search in searches.items()
        }

    @property
    def stages(self) -> Mapping[str, Attack]:
        """The four attacks by name; each is for what is left by those before it."""
        return self._stages

    def worst_case(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> tuple[Tensor, Tensor]:
        """All four on one batch, each on what is left."""
        worst = images.detach().clone()
        correct = correct_on(model, images, labels)
        for stage in self._stages.values():
            left = correct.nonzero().squeeze(1)
            if len(left) == 0:
                break
            worst[left], correct[left] = stage.worst_case(
                model, images[left], labels[left], noise.select(left)
            )
        return worst, correct

    def _apgd_ce(
        self, network: Network, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Found:
        doubts_of(network, images)

        def search(places: Tensor, noise: SampleNoise, start: int) -> Found:
            batch = images[places], labels[places]
            stream = _STREAM + start * _STARTS_APART
            yield from self._apgd(network, *batch, None, noise, stream)

        yield from _in_turn(self.runs.starts, images, noise, search)

    def _apgd_t(
        self, network: Network, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Found:
        def search(
            images: Tensor, labels: Tensor, aims: Tensor, noise: SampleNoise, rank: int
        ) -> Found:
            stream = _STREAM + 1 + rank
            yield from self._apgd(network, images, labels, aims, noise, stream)

        count = self.runs.targets
        yield from _each_target(network, images, labels, noise, count, search)

    def _fab_t(
        self, network: Network, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Found:
        def search(
            images: Tensor, labels: Tensor, aims: Tensor, noise: SampleNoise, rank: int
        ) -> Found:
            yield from fab(
                network, images, labels, aims, self.ball, num_steps=NUM_STEPS
            )

        yield from _each_target(network, images, labels, noise, _TARGETS, search)

    def _square(
        self, network: Network, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Found:
        stream = _STREAM + _STREAMS_APART
        yield from square(network, images, labels, self.ball, noise, stream)

    def _apgd(
        self,
        network: Network,
        images: Tensor,
        labels: Tensor,
        targets: Tensor | None,
        noise: SampleNoise,
        stream: int,
    ) -> Found:
        """One run from one start, towards the targets if there are any."""
        loss = cross_entropy if targets is None else dlr_to_target
        kind, epsilon = type(self.ball), self.ball.epsilon
        attacks = [
            APGD(kind(times * epsilon), num_steps=steps, loss=loss, warm=True)
            for times, steps in self.runs.phases
        ]
        points = surface_point(attacks[0].ball, images, noise, stream)
        for attack, following in pairwise(attacks):
            climb = attack.climb(network, images, labels, targets, points)
            points = following.ball.project(climb.best, images)
        yield from fallen(network, images, labels, targets, points, attacks[-1])

    def __repr__(self) -> str:
        return f"AutoAttack({self.ball})"


def _each_target(
    network: Network,
    images: Tensor,
    labels: Tensor,
    noise: SampleNoise,
    count: int,
    search: Callable[[Tensor, Tensor, Tensor, SampleNoise, int], Found],
) -> Found:
    """The search for each of the next ``count`` classes, or of all where there are
    fewer; it takes images, labels, the class aimed at, noise, and its rank from 1."""
    with torch.no_grad():
        ranks = network(images).argsort(dim=1, descending=True)

    def aimed(places: Tensor, noise: SampleNoise, number: int) -> Found:
        rank = 1 + number
        batch = images[places], labels[places], ranks[places, rank]
        yield from search(*batch, noise, rank)

    yield from _in_turn(min(count, ranks.shape[1] - 1), images, noise, aimed)


def _in_turn(
    count: int,
    images: Tensor,
    noise: SampleNoise,
    search: Callable[[Tensor, SampleNoise, int], Found],
) -> Found:
    """A number of searches, each on what is left by those before it.

    Args:
        count: of searches.
        images: ``[batch, ...]``.
        noise: of these images.
        search: takes the places of images in the batch, their noise, and the number of
            the search from 0; finds places in those, and points.
    """
    places = torch.arange(len(images), device=images.device)
    for number in range(count):
        standing = torch.ones_like(places, dtype=torch.bool)
        for found, points in search(places, noise.select(places), number):
            yield places[found], points
            standing[found] = False
        places = places[standing]
        if len(places) == 0:
            return


AUTOATTACK = EvaluationAttack(
    build=lambda settings, num_classes: AutoAttack(
        settings.norm, settings.epsilon, num_classes=num_classes
    ),
    describe=lambda settings: f"AutoAttack {place(settings)}",
    fixed={"num_steps": 1, "restarts": 1},
)
