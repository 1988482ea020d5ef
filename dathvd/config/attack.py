"""The inner maximisation: how adversarial examples are made."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dathvd.components import ATTACKS
from dathvd.config.base import (
    ComponentSection,
    Count,
    Natural,
    NonNegative,
    Pixel,
    named_in,
)
from dathvd.registry import is_foreign

Norm = Literal["linf", "l2", "l1"]
REACH = 2.5
"""Length of all steps together over epsilon, at least: every point of the ball can be
reached from every other (Madry et al., ICLR 2018, take 2.5 epsilon / num_steps)."""


class AttackConfig(ComponentSection):
    """An attack on images in [0, 1] within a ball of radius ``epsilon``."""

    name: Annotated[str, named_in(ATTACKS)] = "pgd"
    """none (plain training), pgd, apgd (which sets its own steps: num_steps, restarts
    and loss alone count), fgsm (one step of epsilon from the image), fgsm_rs
    (one step of 1.25 epsilon from a random start), n_fgsm (one step of epsilon from
    noise of twice epsilon, options.spread, which is not clipped to the ball: in
    training only), free (replayed batches), or the place of another one,
    package.module:attribute."""
    norm: Norm = "linf"
    """The norm of the ball."""
    epsilon: Pixel = 0.17
    """Radius of the ball, in pixel units of [0, 1]; "8/255" may be written so."""
    balls: dict[Norm, Pixel] = {}
    """A union of balls in place of one: norm to radius, such as {linf: 8/255, l1: 12}.
    Steps have 2.5 epsilon / num_steps of each ball's epsilon."""
    combine: Literal["max", "average", "sample", "steps"] = "max"
    """How the balls of a union are trained on: the one of highest loss (max), all, with
    the mean of their losses (average), one drawn for each image (sample), or the one
    that is worst at each step (steps: multi steepest descent, pgd only)."""
    l1_density: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Share of an image's values that a step in an L1 ball changes, those of the
    largest gradients (apgd sets its own)."""
    step_size: Pixel = 0.068
    """Length of the first step of pgd, in the same units."""
    step_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the steps of pgd shrink towards the last one."""
    num_steps: Natural = 5
    """Number of gradient steps of pgd."""
    momentum: NonNegative = 0.0
    """Decay of the accumulated gradient of pgd; 0 takes each gradient alone."""
    random_start: bool = True
    """pgd starts from a point drawn in the ball, else from the image."""
    start: Literal["uniform", "gaussian"] = "uniform"
    """The law of that point; gaussian has a standard deviation of start_std. Where it
    is not set, objectives trades, mart, score, ikl and hat take gaussian, as
    published."""
    start_std: Pixel = 0.001
    """Standard deviation of a gaussian start, in pixel units."""
    restarts: Count = 1
    """Runs from different starts; the worst one counts for each image."""
    loss: Literal["cross_entropy", "margin", "kl", "squared"] = "cross_entropy"
    """What is maximised; margin is Carlini and Wagner's, kl is measured from the
    prediction on the clean image, as TRADES does, and so is squared, as SCORE does:
    objectives trades, ikl and hat, and score, take them where none is set."""
    target: Literal["none", "random", "least_likely"] = "none"
    """The wrong class that the attack aims at; none flees the label instead."""
    early_stop: bool = False
    """Stop each image at its first misclassified point."""
    replays: Count = 1
    """Updates on each batch; with free, each also moves the perturbation."""
    model_mode: Literal["eval", "train"] = "eval"
    """The model's mode during the attack; its statistics are untouched either way."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the attack's convolutions in bfloat16: pays on GPUs and on CPUs with
    avx512_bf16 or AMX; others would be many times slower, and training refuses it."""
    channels_last: bool = True
    """The attack runs on its own copy of the weights, in channels-last layout. This
    and the next four apply in eval mode, to networks that torch.fx can trace."""
    fold_batch_norm: bool = True
    """Batch norm is folded into the convolutions of that copy."""
    winograd: bool = True
    """On CPUs with AVX2 or AVX-512, 3x3 convolutions of that copy take 36 products
    where 144 were (Lavin and Gray, CVPR 2016; multiples of 32 channels), for eight
    times the memory of their weights; in bf16 four times, with avx512_bf16 and a
    layer's rounding errors of 1 % instead of 0.3 %. With AMX bf16 sums are direct, in
    own loops. ReLU, residuals and batch norm before a ReLU join these convolutions."""
    compile: bool = False
    """torch.compile of that copy; up to a minute at the first attack."""
    cuda_graph: bool = True
    """On GPUs, a training attack's steps on that copy are captured as a CUDA graph when
    a batch's shape comes again, and replayed; other batches are launched as usual."""

    def in_ball(self, norm: Norm, epsilon: float) -> Self:
        """The same attack in one ball of the union."""
        step_size = REACH * epsilon / max(self.num_steps, 1)
        one = {"balls": {}, "combine": "max", "step_size": step_size}
        return self.model_copy(update={"norm": norm, "epsilon": epsilon, **one})

    def pgd(self, num_steps: int, **more: Any) -> AttackConfig:
        """PGD of so many steps from random starts in the same ball or balls."""
        return AttackConfig(
            norm=self.norm,
            epsilon=self.epsilon,
            balls=self.balls,
            l1_density=self.l1_density,
            num_steps=num_steps,
            step_size=REACH * self.epsilon / num_steps,
            **more,
        )

    @property
    def threat(self) -> dict[Norm, float]:
        """Every ball by its norm, of the union or the one that there is."""
        return self.balls or {self.norm: self.epsilon}

    @property
    def follows_num_steps(self) -> bool:
        """Whether another ``num_steps`` makes it another attack; one from outside of
        dathvd is taken to."""
        return self.name in ("pgd", "apgd") or is_foreign(self.name)

    @property
    def from_clean(self) -> bool:
        """Whether the loss is measured from the prediction on the clean image, where it
        has no gradient."""
        return self.loss in ("kl", "squared")

    @model_validator(mode="after")
    def _starts_and_losses_fit(self) -> AttackConfig:
        if is_foreign(self.name):  # it alone knows which of the fields it takes
            return self
        moves = self.name != "fgsm" and (self.name != "pgd" or self.random_start)
        if self.from_clean and self.name != "none" and not moves:
            raise ValueError(
                f"loss {self.loss} has no gradient at the image itself: set "
                "random_start, or take cross_entropy or margin"
            )
        if self.restarts > 1 and self.name != "none" and not moves:
            raise ValueError("restarts need a random start, else all runs are equal")
        if self.from_clean and self.target != "none":
            raise ValueError(
                f"loss {self.loss} has no target: take cross_entropy or margin"
            )
        if self.restarts > 1 and self.name == "free":
            raise ValueError("free has no restarts: raise replays instead")
        if self.replays > 1 and self.name != "free":
            raise ValueError("replays belong to the attack free")
        return self

    @model_validator(mode="after")
    def _a_union_has_balls(self) -> AttackConfig:
        if not self.balls:
            if self.combine != "max":
                raise ValueError("combine is of a union: set balls, or leave it out")
            return self
        if len(self.balls) == 1:
            raise ValueError("one ball is no union: set norm and epsilon")
        if self.name in ("none", "free"):
            raise ValueError(f"{self.name} knows no union of balls: set balls to {{}}")
        if self.combine == "steps" and self.name != "pgd":
            raise ValueError(f"combine steps is for pgd, {self.name} has no such steps")
        if self.combine == "sample" and self.model_mode == "train":
            raise ValueError(
                "combine sample attacks a batch's images apart: set model_mode to eval"
            )
        return self
