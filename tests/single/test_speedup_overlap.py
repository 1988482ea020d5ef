"""An exchange of several collectives moves on while the next batch is attacked."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from dathvd.benchmark.step.trainers import build_trainer, synthetic_data
from dathvd.config import load_config
from dathvd.data import load_dataset
from dathvd.noise import SampleNoise

CONFIG = synthetic_data(
    load_config(None, ["model.name=mlp", "model.width=4", "attack.num_steps=5"]), 8
)


def test_each_step_of_the_attack_polls_the_exchanger() -> None:
    polls: list[None] = []
    exchanger = SimpleNamespace(poll=lambda: polls.append(None))

    def wrap(optimizer: torch.optim.Optimizer, named: object) -> torch.optim.Optimizer:
        optimizer.exchanger = exchanger  # type: ignore[attr-defined]
        return optimizer

    dataset = load_dataset(CONFIG.data)
    trainer = build_trainer(CONFIG, dataset, torch.device("cpu"), wrap)
    images = torch.rand(2, *dataset.image_shape)
    labels = torch.zeros(2, dtype=torch.int64)
    trainer.attack(trainer.model, images, labels, SampleNoise(0, torch.arange(2)))
    assert len(polls) == 5


def test_polls_change_nothing_in_the_attack() -> None:
    dataset = load_dataset(CONFIG.data)
    images = torch.rand(2, *dataset.image_shape)
    labels = torch.zeros(2, dtype=torch.int64)
    found = []
    for between in (lambda: None, lambda: torch.rand(7).sum()):
        trainer = build_trainer(CONFIG, dataset, torch.device("cpu"))
        trainer.attack.between = between
        noise = SampleNoise(0, torch.arange(2))
        found.append(trainer.attack(trainer.model, images, labels, noise))
    assert torch.equal(*found)
