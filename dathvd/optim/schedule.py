"""The learning rate: a pure function of the step."""

from __future__ import annotations

import math

from dathvd.config import OptimizerConfig, ScheduleConfig


def scaled_lr(config: OptimizerConfig, batch_size: int) -> float:
    """The learning rate for ``batch_size`` images a step (over all workers).

    ``lr * batch_size / base_batch_size`` (linear: Goyal et al., Accurate, Large
    Minibatch SGD, 2017), ``lr * sqrt(batch_size / base_batch_size)`` (sqrt: You et al.,
    ICLR 2020), or ``lr`` (none).
    """
    exponent = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[config.scaling]
    return config.lr * math.pow(batch_size / config.base_batch_size, exponent)


def learning_rate(
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig,
    *,
    step: int,
    steps_per_epoch: int,
    num_steps: int,
    batch_size: int | None = None,
) -> float:
    """The learning rate of the update ``step`` (from 0) of ``num_steps``.

    Args:
        optimizer: lr and its scaling.
        schedule: the shape and its warm-up.
        step: the number of updates before this one.
        steps_per_epoch: updates per epoch.
        num_steps: updates of the whole run.
        batch_size: images per update over all workers; None where lr is not scaled.
    """
    peak = optimizer.lr if batch_size is None else scaled_lr(optimizer, batch_size)
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    return peak * _shape(schedule, min(progress, 1.0), step / steps_per_epoch)


def _shape(schedule: ScheduleConfig, progress: float, epoch: float) -> float:
    """The share of the peak rate after the warm-up; ``progress`` in [0, 1]."""
    if schedule.name == "multistep":
        return schedule.gamma ** sum(epoch >= mark for mark in schedule.milestones)
    if schedule.name == "cosine":
        height = 0.5 * (1 + math.cos(math.pi * progress))
    elif schedule.name == "cyclic":
        height = _triangle(progress, schedule.peak)
    else:
        return 1.0
    return schedule.final + (1 - schedule.final) * height


def _triangle(progress: float, peak: float) -> float:
    """A line up to 1 at ``peak``, and a line down to 0 at 1 (Smith, 2017)."""
    if progress < peak:
        return progress / peak
    return (1 - progress) / (1 - peak) if peak < 1 else 1.0
