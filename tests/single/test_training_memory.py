"""What an objective remembers of an epoch, and the helper that another one asks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import horovod.torch as hvd
import pytest
import torch

from dathvd.config import load_config
from dathvd.data import load_dataset
from dathvd.errors import UserError
from dathvd.runtime import Runtime
from dathvd.training.helper import load_helper
from dathvd.training.state import TrainingState
from dathvd.training.workers import build_state
from tests.saved_network import save_network

hvd.init()
ALONE = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)
SMALL = [
    "data.name=synthetic", "data.num_train=24", "data.image_size=8",
    "data.num_test=1", "model.width=2", "attack.num_steps=1",
]  # fmt: skip


def state_of(*overrides: str) -> TrainingState:
    config = load_config(None, [*SMALL, *overrides])
    return build_state(config, load_dataset(config.data), ALONE)


def test_what_workers_had_added_up_goes_on_among_any_number_of_them() -> None:
    whole, other = state_of("objective.name=ikl"), state_of("objective.name=ikl")
    before, after = whole.class_means, other.class_means
    assert before is not None and after is not None
    torch.manual_seed(0)
    labels, logits = torch.arange(10).repeat(2), torch.randn(20, 10)
    parts = []
    for part in (slice(0, 12), slice(12, 20)):  # what two workers saw
        half = state_of("objective.name=ikl")
        assert half.class_means is not None
        for memory in (half.class_means, before):
            memory.see(labels[part], logits[part])
            memory.keep()
        parts.append(half.own_dict())
    other.load_totals(parts)  # one worker goes on
    torch.testing.assert_close(after.sums, before.sums)
    after.end_epoch(10, lambda sums: sums)
    shared = other.shared_dict(1)
    whole.load_shared_dict(shared)
    assert before.means is not None
    assert torch.equal(before.means, shared["class_means"])
    assert other.own_dict()["class_sums"] is None


def test_a_helper_is_frozen_and_fits_the_data(tmp_path: Path) -> None:
    folder = save_network(tmp_path / "natural", (3, 8, 8), 10, "model.name=mlp")
    overrides = ["objective.name=hat", f"objective.helper={folder}"]
    config = load_config(None, [*SMALL, *overrides])
    dataset = load_dataset(config.data)
    helper = load_helper(config, dataset, ALONE)
    assert helper is not None and not helper.training
    assert not any(weight.requires_grad for weight in helper.parameters())
    state = state_of(*overrides)
    names = {name for name, _ in state.trainer.model.named_parameters()}
    assert state.shared_dict(1)["model"].keys() >= names
    fewer = replace(dataset, classes=dataset.classes[:7])
    with pytest.raises(UserError, match="10 classes of images .3, 8, 8., this run"):
        load_helper(config, fewer, ALONE)
    with pytest.raises(UserError, match="adversarial asks no helper"):
        load_config(None, ["objective.helper=runs/natural"])
