"""Free adversarial training, where a step's batch is cut into several passes."""

from __future__ import annotations

import horovod.torch as hvd
import pytest
import torch

from dathvd.config import Config, load_config
from dathvd.data import load_dataset
from dathvd.evaluation import evaluate_test_set
from dathvd.runtime import Runtime
from dathvd.training.batches import plan_of
from dathvd.training.state import TrainingState
from dathvd.training.workers import build_state

hvd.init()
ALONE = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)


def configured(passes: int, *overrides: str) -> Config:
    free = ["attack.name=free", "attack.replays=4", "optimizer.name=sgd"]
    cut = f"train.backward_passes_per_step={passes}"
    return load_config(None, [*free, cut, *overrides])


def trained(config: Config, num_steps: int, lr: float) -> TrainingState:
    """A state after so many steps, every batch of which is replayed."""
    dataset = load_dataset(config.data)
    state = build_state(config, dataset, ALONE)
    plan = plan_of(config, dataset, ALONE.device, ALONE.rank, ALONE.size)
    for step in range(num_steps):
        batches = list(plan.step(step))
        for _ in range(state.trainer.attack.replays):
            state.trainer.step(batches, lr)
    return state


def test_two_passes_of_half_the_size_equal_one() -> None:
    """Without batch norm the update is the same up to rounding, in every replay."""
    overrides = ["model.name=mlp", "model.width=2", "model.activation=softplus"]
    one, two = (
        trained(configured(passes, *overrides), 2, 0.05).trainer.model.state_dict()
        for passes in (1, 2)
    )
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_two_passes_are_as_robust_as_one() -> None:
    overrides = ["model.name=mlp", "optimizer.momentum=0.9", "train.batch_size=128"]
    overrides += ["evaluation.max_samples=200", "attack.epsilon=0.15"]
    robust = []
    for passes in (1, 2):
        config = configured(passes, *overrides)
        state = trained(config, 40, 0.03)
        dataset = load_dataset(config.data)
        model = state.published_model()
        robust.append(evaluate_test_set(model, dataset, config, ALONE).robust)
    assert robust[0] > 0.3 and abs(robust[1] - robust[0]) < 0.05, robust
