"""How large AutoAttack's parts are."""

from __future__ import annotations

import torch

from dathvd.config import ModelConfig
from dathvd.evaluation.part_size import LARGEST, part_size
from dathvd.models import build_model


def size_for(name: str, side: int, least: int = 64, count: int = 10_000) -> int:
    model = build_model(ModelConfig.model_validate({"name": name}), (3, side, side), 10)
    return part_size(model, torch.zeros(1, 3, side, side), least, count)


def test_cheap_networks_get_many_images_and_none_fewer_than_before() -> None:
    assert size_for("small_cnn", 8) == LARGEST
    small, large = size_for("small_resnet", 8, 1), size_for("preact_resnet18", 32, 1)
    assert LARGEST >= small > large >= 1
    assert size_for("preact_resnet18", 32) == 64


def test_a_small_test_set_is_still_shared_by_workers() -> None:
    assert size_for("small_cnn", 8, count=359) == 90
    assert size_for("small_cnn", 8, count=1_000) == 250
