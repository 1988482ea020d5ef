"""The makers of attacks: a configuration becomes an attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field

from dathvd.attacks.apgd import APGD
from dathvd.attacks.attack import Attack
from dathvd.attacks.balls import BALLS, Ball, L1Ball
from dathvd.attacks.forward import Forward
from dathvd.attacks.free import FreeAttack
from dathvd.attacks.losses import LOSSES
from dathvd.attacks.msd import MSD
from dathvd.attacks.noisy import SPREAD, NoisyBall
from dathvd.attacks.pgd import PGD
from dathvd.attacks.schedules import STEP_SCHEDULES, TARGETS
from dathvd.attacks.union import Union
from dathvd.components import ATTACKS as _ATTACKS
from dathvd.config.attack import AttackConfig
from dathvd.errors import UserError, choose

ATTACKS: Mapping[str, Callable[..., Attack]] = _ATTACKS
"""Makers of attacks by name; their places are in ``dathvd.components``."""
_LOSS_LABELS = {"margin": "-margin", "kl": "-KL", "squared": "-squared"}
FAST_STEP = 1.25
"""Step over epsilon of fgsm_rs (Wong, Rice, Kolter: Fast Is Better than Free, 2020)."""


def build_attack(config: AttackConfig) -> Attack:
    """The attack of that configuration, on one ball or on a union.

    Raises:
        UserError: it lies elsewhere and cannot be imported or made.
    """
    if config.balls and config.combine != "steps":
        loss = choose("attack.loss", config.loss, LOSSES)
        parts: dict[str, Attack] = {
            norm: build_attack(config.in_ball(norm, epsilon))
            for norm, epsilon in config.balls.items()
        }
        return Union(parts, combine=config.combine, loss=loss)
    attack: Attack = _ATTACKS.build(config)
    return attack


def describe_attack(config: AttackConfig) -> str:
    """One line such as ``PGD-20 linf epsilon 0.15 step 0.019, 2 restarts``.

    Raises:
        UserError: there is no attack of that name.
    """
    return build_attack(config).description


def _called(
    attack: Attack, label: str, config: AttackConfig, *details: str, step: str = ""
) -> Attack:
    """The attack, described by a label, its ball, its step and those details."""
    place = f"{label} {config.norm} epsilon {config.epsilon:.4g}{step}"
    attack.description = ", ".join([place, *details])
    return attack


def _restarts(config: AttackConfig) -> str:
    return f"{config.restarts} restart{'' if config.restarts == 1 else 's'}"


def _ball(config: AttackConfig) -> Ball:
    if config.norm == "l1":
        return L1Ball(config.epsilon, config.l1_density)
    return choose("attack.norm", config.norm, BALLS)(config.epsilon)


def _common(config: AttackConfig) -> dict[str, Any]:
    """The options that every gradient attack has."""
    return {
        "restarts": config.restarts,
        "loss": choose("attack.loss", config.loss, LOSSES),
        "target": choose("attack.target", config.target, TARGETS),
        "early_stop": config.early_stop,
        "forward": Forward(
            training=config.model_mode == "train",
            bf16=config.precision == "bf16",
            channels_last=config.channels_last,
            fold_batch_norm=config.fold_batch_norm,
            winograd=config.winograd and not config.compile,
            compile=config.compile,
            cuda_graph=config.cuda_graph,
        ),
    }


def pgd(config: AttackConfig) -> Attack:
    """PGD with all that the configuration says of it."""
    loss = _LOSS_LABELS.get(config.loss, "")
    options = {
        "num_steps": config.num_steps,
        "random_start": config.random_start,
        "start_std": config.start_std if config.start == "gaussian" else None,
        "momentum": config.momentum,
        "schedule": choose(
            "attack.step_schedule", config.step_schedule, STEP_SCHEDULES
        ),
        **_common(config),
    }
    if config.balls:
        return _msd(config, f"MSD{loss}-{config.num_steps}", options)
    attack = PGD(_ball(config), step_size=config.step_size, **options)
    step = f" step {config.step_size:.4g}"
    label = f"PGD{loss}-{config.num_steps}"
    return _called(attack, label, config, _restarts(config), step=step)


def _msd(config: AttackConfig, label: str, options: dict[str, Any]) -> Attack:
    """PGD's steps on the union of the balls."""
    parts = [config.in_ball(*ball) for ball in config.balls.items()]
    lengths = [part.step_size for part in parts]
    attack = MSD([_ball(part) for part in parts], step_sizes=lengths, **options)
    union = " or ".join(f"{norm} {radius:.4g}" for norm, radius in config.balls.items())
    attack.description = f"{label} epsilon {union}, {_restarts(config)}"
    return attack


def apgd(config: AttackConfig) -> Attack:
    """Auto-PGD, whose steps begin at twice epsilon and are halved as they fail.

    Raises:
        UserError: a target is set, which it does not aim at.
    """
    if config.target != "none":
        raise UserError("attack apgd: aims at no class: take target none, or pgd")
    common = _common(config)
    chosen = {name: common[name] for name in ("restarts", "loss", "forward")}
    attack = APGD(_ball(config), num_steps=config.num_steps, **chosen)
    loss = _LOSS_LABELS.get(config.loss, "")
    return _called(attack, f"APGD{loss}-{config.num_steps}", config, _restarts(config))


def fgsm(config: AttackConfig) -> Attack:
    """One step of epsilon from the image.

    Goodfellow, Shlens and Szegedy, Explaining Adversarial Examples, ICLR 2015.
    """
    step = config.epsilon
    attack = PGD(
        _ball(config),
        step_size=step,
        num_steps=1,
        random_start=False,
        **_common(config),
    )
    return _called(attack, "FGSM", config, _restarts(config))


def fgsm_rs(config: AttackConfig) -> Attack:
    """One step of 1.25 epsilon from a random start."""
    step = FAST_STEP * config.epsilon
    attack = PGD(_ball(config), step_size=step, num_steps=1, **_common(config))
    return _called(attack, "FGSM-RS", config, _restarts(config))


def n_fgsm(
    config: AttackConfig, *, spread: Annotated[float, Field(gt=0)] = SPREAD
) -> Attack:
    """One step of epsilon from noise of ``spread`` epsilon, not clipped to the ball."""
    ball = NoisyBall(_ball(config), spread)
    attack = PGD(ball, step_size=config.epsilon, num_steps=1, **_common(config))
    attack.reach = 1.0 + spread
    label = "N-FGSM" if spread == SPREAD else f"N-FGSM spread {spread:g}"
    return _called(attack, label, config, _restarts(config))


def free(config: AttackConfig) -> Attack:
    """Replayed batches, each moved along the last backward pass's gradient."""
    attack = FreeAttack(_ball(config), replays=config.replays)
    return _called(attack, f"free-{config.replays}", config)
