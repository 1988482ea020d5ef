"""Trainers and batches on the device, for the tests here."""

from __future__ import annotations

import torch
from torch import Tensor

from dathvd.benchmark.step.trainers import (
    batch_plan,
    build_trainer,
    synthetic_data,
)
from dathvd.config import Config, load_config
from dathvd.data import load_dataset
from dathvd.training.batches import BatchPlan
from dathvd.training.step import Trainer

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
SMALL = ["model.name=small_resnet", "model.width=32", "train.batch_size=48"]
LARGER = ["model.name=preact_resnet18", "train.batch_size=48"]
EXACT = ["train.tf32=false"]


def configured(*overrides: str) -> Config:
    """Random 3x32x32 images, three and a half batches of 48 of them."""
    own = ["data.image_size=32", "data.channels=3", "attack.epsilon=8/255"]
    chosen = load_config(None, [*own, "attack.step_size=2/255", *overrides])
    return synthetic_data(chosen, num_images=168)


def trainer_on(device: torch.device, config: Config) -> tuple[Trainer, BatchPlan]:
    """A trainer of one worker, and its batches."""
    dataset = load_dataset(config.data)
    trainer = build_trainer(config, dataset, device)
    return trainer, batch_plan(config, dataset, device)


def train(trainer: Trainer, plan: BatchPlan, steps: range, lr: float = 0.01) -> None:
    """Take those steps."""
    for step in steps:
        trainer.step(list(plan.step(step)), lr)


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    """Copies of all parameters and buffers on the host."""
    state = trainer.model.state_dict()
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states are equal, tensor by tensor."""
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) for name in one
    )
