"""Clipping by global norm, where nothing is exchanged; with an exchange it is a law of
``tests/parallel/laws_of_steps.py``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dathvd.config import load_config
from dathvd.data import load_dataset
from dathvd.errors import UserError
from dathvd.training.build import build_training, first_model

CPU = torch.device("cpu")


def change(*settings: str) -> Tensor:
    """How far one step of SGD at rate 1 moves the weights, without momentum."""
    config = load_config(
        None,
        ["optimizer.name=sgd", "optimizer.momentum=0", "optimizer.weight_decay=0",
         "attack.num_steps=1", *settings],
    )  # fmt: skip
    dataset = load_dataset(config.data)
    trainer = build_training(config, first_model(config, dataset), CPU)
    before = [weight.detach().clone() for weight in trainer.model.parameters()]
    for group in trainer.optimizer.param_groups:
        group["lr"] = 1.0
    images = dataset.train.batch(torch.arange(8)).float() / 255
    labels = dataset.train.labels[:8]
    terms = trainer.objective(trainer.model, images, images, labels)
    terms.loss.backward()
    trainer.optimizer.step()
    after = trainer.model.parameters()
    return torch.cat(
        [(a - b).flatten() for a, b in zip(after, before, strict=True)]
    ).detach()


def test_a_long_gradient_keeps_its_direction_and_a_short_one_its_length() -> None:
    free = change()
    limit = float(free.norm()) / 3
    clipped = change(f"optimizer.max_gradient_norm={limit}")
    torch.testing.assert_close(clipped.norm(), torch.tensor(limit), rtol=1e-4, atol=0)
    torch.testing.assert_close(3 * clipped, free, rtol=1e-3, atol=1e-6)
    assert torch.equal(change("optimizer.max_gradient_norm=1e6"), free)


def test_a_length_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="max_gradient_norm: input should be greater"):
        load_config(None, ["optimizer.max_gradient_norm=0"])
