"""Is robust accuracy real, or do gradients only fail to find what is there?

The signs of masked gradients of Athalye, Carlini and Wagner (Obfuscated Gradients Give
a False Sense of Security, ICML 2018, section 3.1) and the checks of Carlini et al. (On
Evaluating Adversarial Robustness, 2019), as comparisons of accuracies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dathvd.config.evaluation import REACH, EvaluationAttackConfig
from dathvd.evaluation.grid import Cell, Grid

MIN_STEPS = 10
"""The least number of steps whose accuracies are compared over steps."""
NOISE_DRAWS = 50
RESTARTS = 5


@dataclass(frozen=True)
class Limits:
    """How far a sound network may be from what theory wants, as shares of samples."""

    rise: float = 0.01
    """How far accuracy may rise with a larger radius or with more steps."""
    unbounded: float = 0.02
    """Accuracy that may remain where every image is within reach."""
    restarts: float = 0.10
    """What more restarts may gain over one run of as many steps."""
    losses: float = 0.10
    """What the margin loss may gain over the cross-entropy."""
    beyond: float = 0.02
    """Samples that may fall to noise or to another network's examples alone."""
    no_gradient: float = 0.05
    """The share of correctly classified samples that may have no gradient."""
    ensemble: float = 0.05
    """What AutoAttack may gain over PGD with restarts and both losses."""
    surrogate: float = 0.5
    """A surrogate below this share of the clean accuracy says nothing."""


@dataclass(frozen=True)
class Check:
    """One comparison, its outcome and the numbers behind it."""

    name: str
    passed: bool | None
    """Whether the check holds; None where it could not be decided."""
    reason: str


@dataclass(frozen=True)
class Plan:
    """The cells that the checks compare; some of them serve several checks."""

    own: Cell
    """PGD at the run's radius, one restart."""
    radii: tuple[Cell, ...]
    """PGD at growing radii; the last one reaches every image."""
    steps: tuple[Cell, ...]
    """PGD with more and more steps."""
    restarts: Cell
    margin: Cell
    one_step: Cell
    noise: Cell
    ensemble: Cell | None = None
    """AutoAttack, if it is asked for."""

    @classmethod
    def make(
        cls,
        settings: EvaluationAttackConfig,
        image_shape: Sequence[int],
        *,
        autoattack: bool = False,
    ) -> Plan:
        """Plan cells around the radius and the steps of the run's evaluation.

        Args:
            settings: the run's attack, its epsilon above 0.
            image_shape: (channels, height, width) of one image.
            autoattack: whether it is run too, which takes most of the time.
        """
        epsilon, count = settings.epsilon, max(settings.num_steps, MIN_STEPS)
        # All cells take steps of one length: fewer steps are the beginning of more.
        size = max(min(settings.step_size, epsilon), REACH * epsilon / count)
        own = EvaluationAttackConfig(
            epsilon=epsilon,
            norm=settings.norm,
            step_size=size,
            num_steps=count,
            restarts=1,
        )
        count_of_values = math.prod(image_shape)
        everything = {
            "linf": 1.0,
            "l2": math.sqrt(count_of_values),
            "l1": float(count_of_values),
        }[settings.norm]
        ladder = [x * epsilon for x in (0.5, 1.0, 2.0, 4.0) if x * epsilon < everything]
        counts = (1, max(count // 4, 2), count, 3 * count)

        def cell(attack: str, **options: Any) -> Cell:
            return Grid((attack,), (epsilon,), **options).cells(own)[0]

        return cls(
            own=cell("pgd"),
            radii=tuple(Grid(("pgd",), (*ladder, everything), (count,)).cells(own)),
            steps=tuple(
                cell("pgd", num_steps=(steps,), step_size=size) for steps in counts
            ),
            restarts=cell("pgd", restarts=RESTARTS),
            margin=cell("pgd-margin"),
            one_step=cell("fgsm"),
            noise=cell("noise", num_steps=(NOISE_DRAWS,)),
            ensemble=cell("autoattack") if autoattack else None,
        )

    def cells(self) -> list[Cell]:
        """Every cell of the plan, none of them twice."""
        single = (self.own, self.restarts, self.margin, self.one_step, self.noise)
        last = () if self.ensemble is None else (self.ensemble,)
        every = (*self.radii, *self.steps, *single, *last)
        return list({cell.key: cell for cell in every}.values())


@dataclass(frozen=True)
class Findings:
    """Which samples held, bool ``[num_samples]`` each."""

    plan: Plan
    clean: Tensor
    held: dict[str, Tensor]
    """Samples that are right under each cell's attack, by the cell's key."""
    transfer: Tensor
    """Samples that are right on the surrogate's adversarial images."""
    surrogate: Tensor
    """Samples whose clean image the surrogate itself gets right."""
    gradient: Tensor
    """Samples at whose clean image the gradient is not zero."""

    def accuracy(self, cell: Cell) -> float:
        """The share that held."""
        return share(self.held[cell.key])


def share(flags: Tensor) -> float:
    """The share of true entries; 0 where there are no entries."""
    return int(flags.sum()) / max(flags.numel(), 1)


def percent(value: float) -> str:
    """A share in words."""
    return f"{100 * value:.1f} %"


def run_checks(found: Findings, limits: Limits = Limits()) -> list[Check]:
    """All checks in the order in which they are best read."""
    return [
        _gradients(found, limits),
        _monotone(
            "falls with epsilon",
            [("epsilon 0", share(found.clean))]
            + [
                (f"epsilon {cell.settings.epsilon:.3g}", found.accuracy(cell))
                for cell in found.plan.radii
            ],
            limits.rise + _one_sample(found),
        ),
        _unbounded(found, limits),
        _monotone(
            "falls with steps",
            [
                (f"{cell.settings.num_steps} steps", found.accuracy(cell))
                for cell in found.plan.steps
            ],
            limits.rise + _one_sample(found),
        ),
        _one_step(found, limits),
        _restarts(found, limits),
        _losses(found, limits),
        _beyond("noise finds no more", found, found.held[found.plan.noise.key], limits),
        _transfer(found, limits),
        *([] if found.plan.ensemble is None else [_ensemble(found, limits)]),
    ]


def _one_sample(found: Findings) -> float:
    """One sample more or less never decides."""
    return 1 / len(found.clean)


def _gradients(found: Findings, limits: Limits) -> Check:
    missing = share(~found.gradient[found.clean])
    reason = f"no gradient at {percent(missing)} of the images that are read rightly"
    return Check("gradients are there", missing <= limits.no_gradient, reason)


def _monotone(name: str, points: list[tuple[str, float]], slack: float) -> Check:
    best = points[0]
    for point in points[1:]:
        if point[1] > best[1] + slack:
            reason = (
                f"{percent(best[1])} at {best[0]}, "
                f"but {percent(point[1])} at {point[0]}"
            )
            return Check(name, False, reason)
        best = min(best, point, key=lambda entry: entry[1])
    shares = ", ".join(percent(value) for _, value in points)
    return Check(name, True, f"{shares} from {points[0][0]} to {points[-1][0]}")


def _unbounded(found: Findings, limits: Limits) -> Check:
    cell = found.plan.radii[-1]
    left = found.accuracy(cell)
    reason = f"{percent(left)} right at epsilon {cell.settings.epsilon:.3g}"
    passed = left <= limits.unbounded + _one_sample(found)
    return Check("nothing survives everything", passed, reason)


def _one_step(found: Findings, limits: Limits) -> Check:
    one, many = found.accuracy(found.plan.one_step), found.accuracy(found.plan.restarts)
    reason = (
        f"{percent(one)} under one step, {percent(many)} under PGD, {RESTARTS} runs"
    )
    passed = many <= one + limits.rise + _one_sample(found)
    return Check("one step is no stronger", passed, reason)


def _restarts(found: Findings, limits: Limits) -> Check:
    one, more = found.accuracy(found.plan.own), found.accuracy(found.plan.restarts)
    reason = f"{percent(one)} after 1 run, {percent(more)} after {RESTARTS}"
    passed = one - more <= limits.restarts + _one_sample(found)
    return Check("restarts help little", passed, reason)


def _losses(found: Findings, limits: Limits) -> Check:
    entropy, margin = found.accuracy(found.plan.own), found.accuracy(found.plan.margin)
    reason = f"{percent(entropy)} under cross-entropy, {percent(margin)} under margin"
    passed = entropy - margin <= limits.losses + _one_sample(found)
    return Check("the loss matters little", passed, reason)


def _white(found: Findings) -> Tensor:
    """Samples that survive PGD with restarts and with both losses."""
    plan = found.plan
    strong = [found.held[cell.key] for cell in (plan.own, plan.restarts, plan.margin)]
    return torch.stack(strong).all(dim=0)


def _ensemble(found: Findings, limits: Limits) -> Check:
    """AutoAttack sets its own steps and needs no gradients in its last part: where it
    finds much more, PGD's accuracy is none to report (Croce and Hein, ICML 2020)."""
    assert found.plan.ensemble is not None
    white = share(_white(found))
    left = share(_white(found) & found.held[found.plan.ensemble.key])
    reason = f"{percent(white)} under PGD, {percent(left)} under AutoAttack too"
    passed = white - left <= limits.ensemble + _one_sample(found)
    return Check("AutoAttack finds little more", passed, reason)


def _beyond(name: str, found: Findings, held: Tensor, limits: Limits) -> Check:
    """Few samples fall to this attack and to no gradient attack at the same radius."""
    white = _white(found)
    only = share(white & ~held)
    reason = (
        f"{percent(share(held))} right under it, {percent(share(white))} under "
        f"gradients; {percent(only)} fall to it alone"
    )
    return Check(name, only <= limits.beyond + _one_sample(found), reason)


def _transfer(found: Findings, limits: Limits) -> Check:
    name = "transfer finds no more"
    reads, clean = share(found.surrogate), share(found.clean)
    if reads < limits.surrogate * clean:
        reason = (
            f"the surrogate reads only {percent(reads)}: train it longer "
            "(--surrogate-steps), or name another run (--surrogate)"
        )
        return Check(name, None, reason)
    return _beyond(name, found, found.transfer, limits)
