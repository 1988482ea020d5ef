"""Free adversarial training: the attack's gradient comes with the training's own.

Shafahi et al., Adversarial Training for Free!, NeurIPS 2019, algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from dathvd.attacks.attack import Attack, nan_unless_finite
from dathvd.attacks.balls import Ball
from dathvd.errors import UserError
from dathvd.noise import SampleNoise

_START_STREAM = 100


class FreeAttack(Attack):
    """One step of ``epsilon`` for each replay, along the last backward pass's gradient.

    The training loop calls it ``replays`` times with the same ``images`` object and
    trains on each result. A result is a leaf that asks for its gradient: the backward
    pass of the objective leaves it there, and the next call steps along it. Several
    batches may take turns, as the parts of one step do: each has points of its own, for
    as long as its ``images`` live.

    The paper carries the perturbation over to the next batch; here each batch starts
    from its own random point, so that a run depends neither on how workers share the
    batch nor on what preceded a resumed step.

    Args:
        ball: the norm and the radius.
        replays: updates on each batch (the paper's m).
    """

    def __init__(self, ball: Ball, *, replays: int) -> None:
        self.ball = ball
        self.replays = replays
        # both are keyed by a batch's images: its points of the last call, and of the
        # call before that one
        self._points = WeakTensorKeyDictionary()
        self._before = WeakTensorKeyDictionary()

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Tensor:
        """The batch's next points; the model is not run."""
        last: Tensor | None = self._points.get(images)
        if last is None or last.grad is None:
            start = images + self.ball.uniform(images, noise, _START_STREAM)
        else:
            step = self.ball.epsilon * self.ball.ascent(last.grad, last.detach())
            start = last.detach() + step + nan_unless_finite(last.grad)
        with torch.no_grad():
            points = self.ball.project(start, images)
        self._before[images], self._points[images] = last, points.requires_grad_()
        return points

    def undo(self) -> None:
        """Go back to the points, and their gradients, of the step before."""
        self._points.update(self._before)

    def worst_case(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> tuple[Tensor, Tensor]:
        """Refuse: the attack has no gradient outside training."""
        raise UserError("attack free is for training only: evaluate with pgd or fgsm")

    def __repr__(self) -> str:
        return f"FreeAttack({self.ball}, replays={self.replays})"
