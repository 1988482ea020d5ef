"""The weights' averages and their statistics against closed forms."""

from __future__ import annotations

import json
from pathlib import Path

import horovod.torch as hvd
import pytest
import torch
from torch import nn

from dathvd.benchmark.step.trainers import batch_plan, build_trainer
from dathvd.checkpoint import (
    average_updates,
    find_checkpoints,
    load_file,
    load_model,
    stored_weights,
)
from dathvd.config import load_config
from dathvd.data import load_dataset
from dathvd.errors import UserError
from dathvd.hashing import parameters_sha256
from dathvd.runtime import Runtime
from dathvd.training.ema import WeightAverage
from dathvd.training.run import train
from dathvd.training.statistics import retake, take_anew

hvd.init()
ALONE = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)
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
    average = trainer.averages["ema"] = WeightAverage(trainer.model, decay)
    history: list[dict[str, torch.Tensor]] = []
    for step in range(7):
        trainer.step(list(plan.step(step)), 0.1)
        now = trainer.model.state_dict()
        history.append({name: value.clone() for name, value in now.items()})
    averages = average.network.state_dict()
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


def test_equal_weights_make_the_mean() -> None:
    model = nn.Linear(3, 2)
    average = WeightAverage(model, None)
    seen = []
    for value in (1.0, 4.0, 7.0):
        with torch.no_grad():
            model.weight.fill_(value)
        seen.append(model.weight.detach().clone())
        average.update()
    found = average.network.get_parameter("weight")
    torch.testing.assert_close(found, torch.stack(seen).mean(dim=0))


def layers() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(80, 2),
    )  # fmt: skip


def heard(said: list[torch.Tensor], moments: torch.Tensor) -> torch.Tensor:
    said.append(moments)
    return moments


def statistics_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in model.named_buffers()}


def test_statistics_taken_anew_are_those_of_all_images() -> None:
    """One part gives torch's own; workers' parts are pooled."""
    images = torch.rand(12, 3, 8, 8)
    ours, theirs = layers(), layers()
    for module in theirs.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain mean, here over one batch
    theirs.train()(images)
    retake(ours.train(), [lambda: images], lambda moments: moments)
    for name, expected in statistics_of(theirs).items():
        if "num_batches" not in name:
            torch.testing.assert_close(statistics_of(ours)[name], expected)
    assert all(module.training for module in ours.modules())

    halves = [layers().train(), layers().train()]
    said: list[torch.Tensor] = []
    for model, part in zip(halves, images.split([5, 7])):
        retake(model, [lambda: part], lambda moments: heard(said, moments))
    whole = layers().train()
    retake(whole, [], lambda nothing: said[0] + said[1])
    first = whole[0](images).detach()
    found = statistics_of(whole)
    torch.testing.assert_close(found["1.running_mean"], first.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(found["1.running_var"], first.var(dim=(0, 2, 3)))


def test_statistics_are_those_of_images_as_large_as_evaluations() -> None:
    cropped = ["data.augment=true", "data.image_size=10", "data.crop_size=8"]
    config = load_config(None, [*SMALL, *cropped])
    dataset = load_dataset(config.data)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3 * 8 * 8))
    take_anew(model.train(), dataset, config, ALONE)
    whole = dataset.train.batch(torch.arange(24)).float() / 255
    expected = whole[:, :, 1:9, 1:9].flatten(1).mean(dim=0)
    torch.testing.assert_close(statistics_of(model)["1.running_mean"], expected)


def test_frozen_statistics_stay() -> None:
    model = layers().train()
    model[1].eval()
    before = statistics_of(model)
    retake(model, [lambda: torch.rand(4, 3, 8, 8)], lambda moments: moments)
    after = statistics_of(model)
    assert torch.equal(after["1.running_mean"], before["1.running_mean"])
    assert not torch.equal(after["5.running_mean"], before["5.running_mean"])
    assert not model[1].training and model[5].training


def test_the_best_of_several_averages_counts(tmp_path: Path) -> None:
    overrides = ["train.ema_decay=[0.5, 0.9]", "train.swa_start=1", "train.epochs=3",
                 "train.guard.num_samples=6", "train.guard.num_steps=1",
                 "evaluation.attack.num_steps=1",
                 "evaluation.pictures=false"]  # fmt: skip
    config = load_config(None, [*SMALL, *overrides])
    assert train(config, tmp_path / "run", ALONE)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    probed = result["ema_probe_robust_accuracies"]
    assert list(probed) == ["ema-0.5", "ema-0.9", "swa"]
    assert result["ema_name"] == max(probed, key=probed.get)
    best = load_model(tmp_path / "run", "ema")
    named = load_model(tmp_path / "run", result["ema_name"])
    sums = [parameters_sha256(each) for each in (best, named)]
    assert sums == [result["ema_parameters_sha256"]] * 2
    file = find_checkpoints(tmp_path / "run")[-1] / "model.pt"
    updates = average_updates(load_file(file))
    assert updates == {"ema-0.5": 9, "ema-0.9": 9, "swa": 2}
    with pytest.raises(UserError, match="holds no average 'ema-0.7'"):
        load_model(tmp_path / "run", "ema-0.7")


def test_one_decay_beside_the_mean_of_epochs_has_a_name_of_its_own() -> None:
    """``ema`` is the best of both; files that called the decay so are read alike."""
    several = load_config(None, ["train.ema_decay=0.9", "train.swa_start=1"])
    assert several.train.averages == {"ema-0.9": 0.9, "swa": None}
    near = load_config(None, ["train.ema_decay=[0.9999991, 0.9999992, 1e-3]"])
    names = ["ema-0.9999991", "ema-0.9999992", "ema-0.001"]
    assert list(near.train.averages) == names
    alone = load_config(None, ["train.ema_decay=0.9"])
    assert alone.train.averages == {"ema": 0.9}
    once = {"average_updates": {"ema": 9, "swa": 2}, "ema": 1, "swa": 2}
    assert stored_weights(once | {"best_average": "swa"}, "FILE", "ema") == 2
    assert stored_weights(once | {"best_average": "ema"}, "FILE", "ema") == 1
    assert stored_weights({"ema": 3, "ema_updates": 4}, "FILE", "ema") == 3


def test_averages_without_a_meaning_are_refused() -> None:
    for override, message in (
        ("train.ema_decay=[0.9, 0.9]", "expected different decays above 0"),
        ("train.swa_start=40", "no epoch follows the first 40 of 40"),
    ):
        with pytest.raises(UserError, match=message):
            load_config(None, [override])
    with pytest.raises(UserError, match="set train.ema_decay to one decay"):
        load_config(
            None,
            ["train.ema_decay=[0.5, 0.9]", "attack.name=none", "objective.name=plain"],
        )
