"""The weights' moving average against its closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dathvd.benchmark.step.trainers import batch_plan, build_trainer
from dathvd.config import load_config
from dathvd.data import load_dataset
from dathvd.training.ema import WeightAverage

CPU = torch.device("cpu")
SMALL = [
    "data.name=synthetic", "data.num_train=24", "data.image_size=8",
    "data.num_test=1", "train.batch_size=8", "attack.num_steps=1", "model.width=2",
    "model.normalization=batch", "model.mean=[0.4, 0.4, 0.4]", "model.std=[1, 2, 3]",
]  # fmt: skip


@pytest.mark.parametrize("decay", [0.3, 0.5, 0.99])
def test_it_is_the_normalised_sum_of_all_weights_so_far(decay: float) -> None:
    config = load_config(None, SMALL)
    dataset = load_dataset(config.data)
    trainer, plan = build_trainer(config, dataset, CPU), batch_plan(
        config, dataset, CPU
    )
    trainer.average = WeightAverage(trainer.model, decay)
    history: list[dict[str, torch.Tensor]] = []
    for step in range(7):
        trainer.step(list(plan.step(step)), 0.1)
        now = trainer.model.state_dict()
        history.append({name: value.clone() for name, value in now.items()})
    averages = trainer.average.network.state_dict()
    shares = [decay ** (len(history) - place) for place in range(1, len(history) + 1)]
    assert averages.keys() == history[0].keys()
    for name, found in averages.items():
        values = [state[name] for state in history]
        if not found.is_floating_point():
            assert torch.equal(found, values[-1])
            continue
        terms = [share * value.double() for share, value in zip(shares, values)]
        expected = torch.stack(terms).sum(0) / sum(shares)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(averages["0.mean"], history[0]["0.mean"])


def test_the_first_update_forgets_the_first_weights_and_the_model_is_left_alone() -> (
    None
):
    model = nn.Linear(3, 2)
    average = WeightAverage(model, 0.999)
    with torch.no_grad():
        model.weight.fill_(2.0)
    average.update()
    assert torch.equal(average.network.get_parameter("weight"), model.weight)
    assert not average.network.get_parameter("weight").requires_grad
    assert model.weight.requires_grad and torch.all(model.weight == 2.0)
