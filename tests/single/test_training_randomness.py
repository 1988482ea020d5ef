"""Networks with random numbers of their own: repeatable, resumable, by sample."""

from __future__ import annotations

from pathlib import Path

import horovod.torch as hvd
import pytest
import torch
from torch import nn

from dathvd.config import Config, load_config
from dathvd.data import load_dataset
from dathvd.hashing import parameters_sha256
from dathvd.models import MODELS, StochasticDepth, draws_from
from dathvd.noise import SampleNoise
from dathvd.runtime import Runtime
from dathvd.training.batches import plan_of
from dathvd.training.loop import step_seed
from dathvd.training.saving import restore, save
from dathvd.training.state import TrainingState
from dathvd.training.workers import build_state
from tests.single.small_models import one_of_each_kind, trainable

hvd.init()
ALONE = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)


def configured(name: str) -> Config:
    size = 32 if name.startswith("convnext") else 8
    quick = [
        "data.name=synthetic", "data.num_train=8", "data.num_test=1",
        f"data.image_size={size}", f"model.name={trainable(name)}", "attack.name=none",
        "objective.name=plain", "optimizer.name=sgd", "optimizer.momentum=0",
        "train.batch_size=2",
    ]  # fmt: skip
    return load_config(None, quick)


def advance(state: TrainingState, last: int) -> TrainingState:
    """Take steps until ``last`` are done, as the loop does."""
    plan = plan_of(
        state.config,
        load_dataset(state.config.data),
        ALONE.device,
        ALONE.rank,
        ALONE.size,
    )
    while state.step < last:
        seed = step_seed(state.config.seed, state.step, 0)
        state.trainer.step(list(plan.step(state.step)), 0.01, (), seed)
        state.step += 1
    return state


@pytest.mark.slow
@pytest.mark.parametrize("name", one_of_each_kind())
def test_a_step_is_a_function_of_the_state_and_the_seed(name: str) -> None:
    """Of every kind of network: what another process drew meanwhile decides nothing."""
    config = configured(name)
    state = build_state(config, load_dataset(config.data), ALONE)
    network = advance(state, 1).trainer.model
    before = {key: value.clone() for key, value in network.state_dict().items()}
    advance(state, 2)
    after = parameters_sha256(network)
    network.load_state_dict(before)
    state.step = 1
    torch.rand(7)
    advance(state, 2)
    assert parameters_sha256(network) == after


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small_resnet", "convnext_tiny"])
def test_two_steps_and_one_resumed_are_three(name: str, tmp_path: Path) -> None:
    config = configured(name)
    dataset = load_dataset(config.data)
    state = advance(build_state(config, dataset, ALONE), 2)
    folder = save(state, tmp_path, ALONE)
    whole = parameters_sha256(advance(state, 3).trainer.model)
    torch.rand(7)
    resumed = build_state(config, dataset, ALONE)
    restore(resumed, folder, ALONE)
    assert parameters_sha256(advance(resumed, 3).trainer.model) == whole


def masks(layer: nn.Module, ids: list[int], calls: int = 2) -> torch.Tensor:
    """What each of those samples is multiplied by in each call of the layer."""
    noise = SampleNoise(3, torch.tensor(ids, dtype=torch.int64))
    with draws_from(noise):
        return torch.stack([layer(torch.ones(len(ids), 2, 1, 1)) for _ in range(calls)])


def test_stochastic_depth_belongs_to_the_sample() -> None:
    layer = StochasticDepth(0.3)
    whole = masks(layer, list(range(400)))
    parts = [masks(layer, ids) for ids in ([3, 4], [], [7])]
    assert torch.equal(torch.cat(parts, dim=1), whole[:, [3, 4, 7]])
    assert set(whole.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.7))}
    assert torch.equal(whole[..., :1, :, :], whole[..., 1:, :, :]), "whole samples only"
    first, second = whole[:, :, 0, 0, 0].eq(0).double()
    # the tolerances are four deviations of 400 draws
    assert abs(float(first.mean()) - 0.3) < 0.1 > abs(float(second.mean()) - 0.3)
    assert abs(float((first * second).mean()) - 0.09) < 0.06, "calls are independent"
    layer.eval()
    assert torch.equal(masks(layer, [1, 2]), torch.ones(2, 2, 2, 1, 1))


def test_it_draws_from_the_global_generator_where_no_samples_are_known() -> None:
    layer, ones = StochasticDepth(0.5), torch.ones(64, 1)
    torch.manual_seed(1)
    first = layer(ones)
    torch.manual_seed(1)
    assert torch.equal(layer(ones), first) and 0 < int((first == 0).sum()) < 64


def test_convnext_has_no_other_random_layers() -> None:
    network = MODELS["convnext_tiny"](configured("convnext_tiny").model, (3, 32, 32), 5)
    kinds = {type(module).__module__ for module in network.modules()}
    depths = [m.p for m in network.modules() if isinstance(m, StochasticDepth)]
    assert not any("stochastic_depth" in kind for kind in kinds)
    assert len(depths) == 18 and depths == sorted(depths) and depths[-1] > 0.09
