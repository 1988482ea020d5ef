"""Standard AutoAttack, as its authors published it.

Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of
Diverse Parameter-free Attacks, ICML 2020: APGD on the cross-entropy, targeted APGD on
the DLR loss, targeted FAB, and Square with 5,000 queries, each on what is left.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor, nn

from dathvd.attacks import BALLS, Attack
from dathvd.attacks.attack import correct_on
from dathvd.attacks.forward import Forward
from dathvd.attacks.network import attacked
from dathvd.errors import UserError, choose
from dathvd.evaluation.attack_kind import EvaluationAttack, place
from dathvd.noise import SampleNoise, mix_seed

_STREAM = 20_000
_TARGETS = 9
"""Classes that the targeted attacks aim at, where there are so many wrong ones."""
_MIN_CLASSES = 4
"""The targeted DLR loss divides by a difference of the four highest logits."""
_NORMS = {"linf": "Linf", "l2": "L2"}
_EXACT = Forward(channels_last=True, fold_batch_norm=True, winograd=True)
"""The same function up to rounding, faster."""


class AutoAttack(Attack):
    """The standard version; needs the extra ``autoattack``.

    Its random numbers come from one seed for the whole batch, which the batch's first
    sample decides: fixed batches give fixed results, on any number of workers.

    Args:
        norm: linf or l2.
        epsilon: the radius, in pixel units, above 0.
        num_classes: of the task, at least 4.
        forward: how the network runs while it is attacked; verdicts are its own.

    Raises:
        UserError: the package is missing, or there are too few classes.
    """

    def __init__(
        self,
        norm: str,
        epsilon: float,
        *,
        num_classes: int,
        forward: Forward = _EXACT,
    ) -> None:
        if num_classes < _MIN_CLASSES:
            raise UserError(
                f"attack autoattack: the targeted DLR loss needs {_MIN_CLASSES} "
                f"classes, this task has {num_classes}; use pgd and pgd-margin"
            )
        self._library = _load()
        self._norm = choose("attack.norm", norm, _NORMS)
        self.ball = choose("attack.norm", norm, BALLS)(epsilon)
        self.num_targets = min(_TARGETS, num_classes - 1)
        self.forward = forward

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Tensor:
        """The first adversarial image that one of its attacks finds, else the image."""
        return self.worst_case(model, images, labels, noise)[0]

    def worst_case(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> tuple[Tensor, Tensor]:
        """The library's images, put into the ball, and judged there."""
        first = noise.select(torch.zeros(1, dtype=torch.int64, device=images.device))
        draws = first.uniform((1, 2), _STREAM).mul(2.0**24).long()
        seed = mix_seed(*draws.flatten().tolist()) & 0xFFFFFFFF
        cuda = [images.device] if images.device.type == "cuda" else []
        with (
            attacked(model, self.forward) as network,
            _constant(model),
            torch.random.fork_rng(cuda),
            _remarks(),
        ):
            adversary = self._library.AutoAttack(
                network,
                norm=self._norm,
                eps=self.ball.epsilon,
                seed=seed,
                version="standard",
                device=images.device,
            )
            for targeted in (adversary.apgd_targeted, adversary.fab):
                targeted.n_target_classes = self.num_targets
            images = images.detach()
            found = adversary.run_standard_evaluation(
                images, labels, batch_size=len(images)
            )[0].detach()
        worst = self.ball.project(found, images)
        clean = correct_on(model, images, labels)
        return worst, clean & correct_on(model, worst, labels)

    def __repr__(self) -> str:
        return f"AutoAttack({self.ball})"


def _load() -> ModuleType:
    try:
        import pyautoattack
    except ImportError:
        raise UserError(
            "attack autoattack: needs the package pyautoattack: "
            "pip install 'dathvd[autoattack]'"
        ) from None
    library: ModuleType = pyautoattack
    return library


@contextmanager
def _constant(model: nn.Module) -> Iterator[None]:
    """Weights that collect no gradient: FAB calls ``backward``."""
    flags = [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        model.requires_grad_(False)
        yield
    finally:
        for weight, flag in flags:
            weight.requires_grad_(flag)


class _Handler(logging.Handler):
    """The library's doubts about a model as warnings, each kind once."""

    def emit(self, record: logging.LogRecord) -> None:
        text = re.sub(r"\d+", "some", record.getMessage().partition(" See ")[0])
        warnings.warn(f"AutoAttack: {text}", stacklevel=2)


@contextmanager
def _remarks() -> Iterator[None]:
    logger, handler = logging.getLogger("auto-attack"), _Handler(logging.WARNING)
    propagate, trace = logger.propagate, sys.gettrace()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        sys.settrace(trace)  # the library's check for loops in the model removes it


AUTOATTACK = EvaluationAttack(
    build=lambda settings, num_classes: AutoAttack(
        settings.norm, settings.epsilon, num_classes=num_classes
    ),
    describe=lambda settings: f"AutoAttack {place(settings)}",
    fixed={"num_steps": 1, "restarts": 1},
)
