"""An evaluation on a GPU is the CPU's, but for samples that rounding decides."""

from __future__ import annotations

import torch

from dathvd.config import AttackConfig
from dathvd.data import load_dataset
from dathvd.evaluation import evaluate
from dathvd.runtime import Runtime
from tests.gpu.steps import CPU, CUDA, EXACT, SMALL, configured, train, trainer_on


def test_the_same_accuracies() -> None:
    config = configured(*SMALL, *EXACT)
    trainer, plan = trainer_on(CUDA, config)
    train(trainer, plan, range(12), lr=0.02)
    images = load_dataset(config.data).train
    attack = AttackConfig(epsilon=4 / 255, step_size=1 / 255, num_steps=10, restarts=2)
    found = []
    for device in (CPU, CUDA):
        runtime = Runtime(0, 1, 0, 1, device, "mpi", torch.get_num_threads())
        model = trainer.model.to(device)
        found.append(
            evaluate(model, images, attack, runtime=runtime, batch_size=84, seed=3)
        )
    cpu, cuda = found
    assert cpu.num_samples == cuda.num_samples == 168
    assert abs(cpu.clean - cuda.clean) <= 1 / 168
    assert abs(cpu.robust - cuda.robust) <= 2 / 168
    assert cpu.clean > cpu.robust
