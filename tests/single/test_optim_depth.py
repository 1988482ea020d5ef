"""Layer-wise decay of the learning rate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dathvd.config import load_config
from dathvd.data import load_dataset
from dathvd.errors import UserError
from dathvd.optim.depth import depths, rate_share
from dathvd.training.build import build_training, first_model

CPU = torch.device("cpu")
QUIET = [
    "model.name=small_resnet", "model.width=4", "optimizer.name=sgd",
    "optimizer.momentum=0", "optimizer.weight_decay=0", "attack.num_steps=1",
]  # fmt: skip


def test_depths_follow_the_blocks() -> None:
    names = ["stem.w", "b.0.w", "between.w", "b.1.w", "b.1.v", "b.10.w", "head.w"]
    found = depths(names, ["b.0", "b.1", "b.10"])
    assert list(found.values()) == [0, 1, 1, 2, 2, 3, 4]
    assert [rate_share(d, 4, 0.5) for d in (4, 3, 0)] == [1.0, 0.5, 0.0625]


def steps(*settings: str) -> dict[str, Tensor]:
    """How far each weight moves in one step of SGD."""
    config = load_config(None, [*QUIET, *settings])
    dataset = load_dataset(config.data)
    trainer = build_training(config, first_model(config, dataset), CPU)
    named = dict(trainer.model.named_parameters())
    before = {name: weight.detach().clone() for name, weight in named.items()}
    images = dataset.train.batch(torch.arange(8)).float() / 255
    terms = trainer.objective(trainer.model, images, images, dataset.train.labels[:8])
    terms.loss.backward()
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.1 * group.get("rate_share", 1.0)
    trainer.optimizer.step()
    return {name: weight.detach() - before[name] for name, weight in named.items()}


@pytest.mark.parametrize("apart", [(), ("optimizer.decay_vectors=false",)])
def test_each_block_has_its_share_of_the_rate(apart: tuple[str, ...]) -> None:
    whole = steps(*apart)
    decayed = steps(*apart, "optimizer.layer_decay=0.5")
    blocks = [n for n in whole if n.startswith(("1.", "2.", "3."))]
    assert blocks and whole.keys() == decayed.keys()
    for name, change in whole.items():
        place = int(name.split(".")[0])  # stem, three blocks, norm, …, head
        depth = min(place, 4)
        torch.testing.assert_close(decayed[name], change * 0.5 ** (4 - depth))


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(UserError, match="optimizer.layer_decay: mlp has no blocks"):
        steps("model.name=mlp", "optimizer.layer_decay=0.9")
