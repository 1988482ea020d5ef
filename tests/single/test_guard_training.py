"""Single-step training that collapses for real, and the guard that sees it."""

from __future__ import annotations

import pytest
import torch

from dathvd.benchmark.step.trainers import batch_plan, build_trainer
from dathvd.config import Config, load_config
from dathvd.data import load_dataset
from dathvd.runtime import Runtime
from dathvd.training.guard import Guard, hold_out
from dathvd.training.step import Trainer

CPU = torch.device("cpu")
ALONE = Runtime(0, 1, 0, 1, CPU, "mpi", 1)
SETTING = [
    "model.name=mlp", "attack.epsilon=0.25", "attack.num_steps=4",
    "attack.step_size=0.1", "optimizer.name=adamw", "train.batch_size=32",
    "train.guard.action=warn", "train.guard.num_samples=128", "train.guard.drop=15",
]  # fmt: skip


def trained(
    epochs: int, rate: float, start: Trainer | None, *overrides: str
) -> tuple[Trainer, Guard, Config]:
    """Train on the digits at a constant rate; the guard looks before and after."""
    config = load_config(None, [*SETTING, *overrides])
    dataset, held_out = hold_out(load_dataset(config.data), config)
    trainer, plan = build_trainer(config, dataset, CPU), batch_plan(
        config, dataset, CPU
    )
    if start is not None:
        trainer.model.load_state_dict(start.model.state_dict())
    guard = Guard(config, held_out, ALONE)
    guard.look(trainer.model, 0)
    for epoch in range(1, epochs + 1):
        for place in range(plan.steps_per_epoch):
            step = (epoch - 1) * plan.steps_per_epoch + place
            trainer.step(list(plan.step(step)), rate)
        if guard.look(trainer.model, epoch):
            break
    return trainer, guard, config


@pytest.mark.slow
def test_fgsm_collapses_and_is_caught_where_pgd_does_not_trip() -> None:
    robust, guard, _ = trained(9, 0.005, None)
    assert guard.collapses == [] and guard.best > 0.2
    robust.totals.sums.zero_()
    fallen, guard, _ = trained(5, 0.01, robust, "attack.name=fgsm")
    assert len(guard.collapses) == 1, guard.describe()
    # its own training batches look better than before all the while
    images, _, _, right, _, _ = fallen.totals.sums.tolist()
    assert right / images > guard.collapses[0]["after"] + 0.15
    _, guard, _ = trained(3, 0.01, robust)
    assert guard.collapses == [], "the fall comes from the attack, not from the rate"
