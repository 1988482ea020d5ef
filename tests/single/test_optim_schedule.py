"""Learning rates in closed form."""

import math
from typing import Any

import pytest

from dathvd.config import OptimizerConfig, ScheduleConfig
from dathvd.optim import learning_rate, scaled_lr

OPTIMIZER = OptimizerConfig(lr=0.5)


def rates(epochs: int = 10, per_epoch: int = 4, **fields: Any) -> list[float]:
    schedule = ScheduleConfig.model_validate(fields)
    total = epochs * per_epoch
    return [
        learning_rate(
            OPTIMIZER, schedule, step=step, steps_per_epoch=per_epoch, num_steps=total
        )
        for step in range(total)
    ]


def test_warm_up_is_linear_and_ends_at_the_rate() -> None:
    values = rates(name="constant", warmup_epochs=2.0)
    assert values[:8] == pytest.approx([0.5 * (step + 1) / 8 for step in range(8)])
    assert values[8:] == [0.5] * 32
    assert rates(name="constant", warmup_epochs=0.0) == [0.5] * 40


def test_multistep_falls_at_the_milestones() -> None:
    values = rates(name="multistep", warmup_epochs=1.0, milestones=(5, 8), gamma=0.1)
    assert values[3:20] == [0.5] * 17
    assert values[20:32] == pytest.approx([0.05] * 12)
    assert values[32:] == pytest.approx([0.005] * 8)


def test_cosine() -> None:
    values = rates(name="cosine", warmup_epochs=1.0)
    assert values[4] == 0.5
    assert values[22] == pytest.approx(0.25)
    assert values[39] == pytest.approx(0.25 * (1 + math.cos(math.pi * 35 / 36)))
    assert rates(name="cosine", final=0.2)[39] == pytest.approx(
        0.5 * (0.2 + 0.4 * (1 + math.cos(math.pi * 35 / 36)))
    )


def test_cyclic_rises_and_falls_in_lines() -> None:
    values = rates(name="cyclic", warmup_epochs=0.0, peak=0.25)
    assert values[0] == 0 and values[10] == 0.5
    assert values[5] == pytest.approx(0.25) and values[25] == pytest.approx(0.25)
    assert max(values) == values[10]
    # One-sided cycles are lines too
    assert rates(name="cyclic", warmup_epochs=0.0, peak=0.0)[20] == pytest.approx(0.25)
    assert rates(name="cyclic", warmup_epochs=0.0, peak=1.0)[20] == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["constant", "multistep", "cosine", "cyclic"])
def test_every_rate_is_between_zero_and_the_peak(name: str) -> None:
    values = rates(name=name, warmup_epochs=0.5, milestones=(1, 2))
    assert all(0 <= value <= 0.5 for value in values)
    assert values == rates(name=name, warmup_epochs=0.5, milestones=(1, 2))


@pytest.mark.parametrize(
    "scaling, expected", [("none", 0.5), ("sqrt", 1.0), ("linear", 2.0)]
)
def test_scaling_from_the_base_batch_size(scaling: Any, expected: float) -> None:
    config = OptimizerConfig(lr=0.5, scaling=scaling, base_batch_size=64)
    assert scaled_lr(config, 256) == pytest.approx(expected)
    assert scaled_lr(config, 64) == 0.5
    rate = learning_rate(
        config,
        ScheduleConfig(name="constant", warmup_epochs=0.0),
        step=0,
        steps_per_epoch=1,
        num_steps=1,
        batch_size=256,
    )
    assert rate == pytest.approx(expected)
