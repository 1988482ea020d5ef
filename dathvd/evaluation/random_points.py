"""Random points of the ball: what a search without gradients finds."""

from __future__ import annotations

from torch import Tensor, nn

from dathvd.attacks import BALLS
from dathvd.attacks.attack import JudgingAttack, on_survivors
from dathvd.errors import choose
from dathvd.evaluation.attack_kind import EvaluationAttack, place
from dathvd.noise import SampleNoise

_STREAM = 10_000


class RandomPoints(JudgingAttack):
    """Draws from the ball, in turn from its inside and from its far points.

    A model that falls to them and not to gradients hides its gradients (Athalye,
    Carlini, Wagner: Obfuscated Gradients Give a False Sense of Security, ICML 2018,
    section 3.1).

    Args:
        norm: linf or l2.
        epsilon: the radius, in pixel units.
        draws: points that are tried for each image.
    """

    def __init__(self, norm: str, epsilon: float, *, draws: int) -> None:
        self.ball = choose("attack.norm", norm, BALLS)(epsilon)
        self.draws = draws

    def worst_case(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> tuple[Tensor, Tensor]:
        """Only images that survived so far get another draw.

        The images are the first of each that the model gets wrong, else the last.
        """
        return on_survivors(model, images, labels, noise, self.draws, self._point)

    def _point(
        self, draw: int, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Tensor:
        change = self.ball.uniform(images, noise, _STREAM + draw)
        if draw % 2:  # a corner of the cube, or a point of the sphere
            change = self.ball.direction(change).mul_(self.ball.epsilon)
        return self.ball.project(images + change, images)

    def __repr__(self) -> str:
        return f"RandomPoints({self.ball}, draws={self.draws})"


NOISE = EvaluationAttack(  # as many points as the others take steps
    build=lambda settings, num_classes: RandomPoints(
        settings.norm, settings.epsilon, draws=settings.num_steps
    ),
    describe=lambda settings: f"noise {place(settings)}, {settings.num_steps} draws",
    options=frozenset({"num_steps"}),
    fixed={"restarts": 1},
)
