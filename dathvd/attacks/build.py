"""From a configuration to an attack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dathvd.attacks.attack import Attack, NoAttack
from dathvd.attacks.balls import BALLS, Ball
from dathvd.attacks.forward import Forward
from dathvd.attacks.free import FreeAttack
from dathvd.attacks.losses import LOSSES
from dathvd.attacks.pgd import PGD
from dathvd.attacks.schedules import STEP_SCHEDULES, TARGETS
from dathvd.config.attack import AttackConfig
from dathvd.errors import choose

FAST_STEP = 1.25
"""Step over epsilon of fgsm_rs (Wong, Rice, Kolter: Fast Is Better than Free, 2020)."""


def build_attack(config: AttackConfig) -> Attack:
    """The attack of that configuration."""
    return choose("attack.name", config.name, ATTACKS)(config)


def _ball(config: AttackConfig) -> Ball:
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
            winograd=config.winograd
            and config.precision == "fp32"
            and not config.compile,
            compile=config.compile,
            cuda_graph=config.cuda_graph,
        ),
    }


def _pgd(config: AttackConfig) -> Attack:
    return PGD(
        _ball(config),
        step_size=config.step_size,
        num_steps=config.num_steps,
        random_start=config.random_start,
        start_std=config.start_std if config.start == "gaussian" else None,
        momentum=config.momentum,
        schedule=choose("attack.step_schedule", config.step_schedule, STEP_SCHEDULES),
        **_common(config),
    )


def _fgsm(config: AttackConfig) -> Attack:
    """Goodfellow, Shlens and Szegedy, Explaining Adversarial Examples, ICLR 2015."""
    step = config.epsilon
    return PGD(
        _ball(config),
        step_size=step,
        num_steps=1,
        random_start=False,
        **_common(config),
    )


def _fgsm_rs(config: AttackConfig) -> Attack:
    step = FAST_STEP * config.epsilon
    return PGD(_ball(config), step_size=step, num_steps=1, **_common(config))


ATTACKS: dict[str, Callable[[AttackConfig], Attack]] = {
    "none": lambda config: NoAttack(),
    "pgd": _pgd,
    "fgsm": _fgsm,
    "fgsm_rs": _fgsm_rs,
    "free": lambda config: FreeAttack(_ball(config), replays=config.replays),
}
