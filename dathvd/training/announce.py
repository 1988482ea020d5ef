"""What a run says of itself before its first step."""

from __future__ import annotations

from collections.abc import Iterator

from dathvd.attacks import describe_attack
from dathvd.config import Config
from dathvd.optim import scaled_lr
from dathvd.training.prepare import Job
from dathvd.training.state import TrainingState


def announce(state: TrainingState, job: Job) -> None:
    """Say what is trained on, what travels, the rate, both attacks and the origin."""
    job.say(job.plan.describe(job.num_steps))
    exchanger = state.exchanger
    job.say(exchanger.describe())
    if exchanger.warmup_steps:
        job.say(f"the first {exchanger.warmup_steps} exchanges compress nothing")
    job.say(describe_rate(job.config))
    for line in describe_attacks(job.config):
        job.say(line)
    if state.origin is not None:
        job.say(state.origin)


def describe_rate(config: Config) -> str:
    """One line: the optimizer, its peak rate, and how that follows from the batch."""
    optimizer, batch_size = config.optimizer, config.train.batch_size
    peak = scaled_lr(optimizer, batch_size)
    line = f"{optimizer.name}, learning rate {peak:.4g}"
    if optimizer.scaling != "none":
        line += (
            f" ({optimizer.lr:.4g} for {optimizer.base_batch_size} images, "
            f"{optimizer.scaling} scaling to {batch_size})"
        )
    return f"{line}, {config.schedule.name} schedule"


def describe_attacks(config: Config) -> Iterator[str]:
    """Two lines: training's attack with what it maximises, and the evaluation's."""
    attack = config.attack
    line = f"trained on {describe_attack(attack)}"
    if attack.name in ("pgd", "apgd", "fgsm", "fgsm_rs", "n_fgsm"):
        line += f", which maximises {attack.loss}"
        if attack.name == "pgd" and attack.random_start:
            line += f" from a {attack.start} start"
    yield line
    yield f"judged by {describe_attack(config.evaluation.attack)}"
