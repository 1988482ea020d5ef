"""Heads and trunks: found in every network, exchanged, frozen."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dathvd.attacks import build_attack
from dathvd.config import AttackConfig, ModelConfig, load_config
from dathvd.errors import UserError
from dathvd.models import MODELS, Projection, build_model, freeze_trunk, head_name
from dathvd.noise import SampleNoise


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_head_is_what_makes_the_logits(name: str) -> None:
    for head, kind in (("linear", nn.Linear), ("projection", Projection)):
        with torch.device("meta"):
            config = ModelConfig.model_validate(
                {"name": name, "head": head, "width": 4}
            )
            model = build_model(config, (3, 32, 32), num_classes=7)
        module = model.get_submodule(head_name(model))
        assert isinstance(module, kind)
        last = module if isinstance(module, nn.Linear) else module[-1]
        assert isinstance(last, nn.Linear) and last.out_features == 7


def test_a_frozen_trunk_keeps_its_bits_in_training() -> None:
    torch.manual_seed(0)
    config = ModelConfig(name="small_resnet", width=4)
    model = build_model(config, (3, 8, 8), num_classes=3)
    model.train()(torch.rand(8, 3, 8, 8))  # statistics of their own
    freeze_trunk(model)
    twin = copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    attack = build_attack(AttackConfig(num_steps=2))
    for network in (model, twin):
        network.train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            images, labels = torch.rand(8, 3, 8, 8), torch.arange(8) % 3
            attacked = attack(network, images, labels, SampleNoise(0, torch.arange(8)))
            network(attacked).square().sum().backward()
            optimizer.step()
    assert model.state_dict().keys() == before.keys()
    head = f"{head_name(model)}."
    for name, value in model.state_dict().items():
        changed = not torch.equal(value, before[name])
        assert changed is name.startswith(head), name
    assert all(
        torch.equal(value, before[name])
        for name, value in twin.state_dict().items()
        if not name.startswith(head)
    )


def test_linear_needs_a_run_to_start_from() -> None:
    with pytest.raises(UserError, match="set init to a run"):
        load_config(None, ["model.init_mode=linear"])
