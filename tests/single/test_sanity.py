"""The checks for masked gradients: they flag masked networks, and spare a sound one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dathvd.attacks import build_attack
from dathvd.config import Config, load_config
from dathvd.data import Dataset, load_dataset
from dathvd.evaluation.requests import Request
from dathvd.evaluation.sanity.checks import Plan, run_checks
from dathvd.evaluation.sanity.measurement import describe, gather_findings
from dathvd.evaluation.sanity.surrogate import train_surrogate
from dathvd.report.sanity import plot_sanity
from dathvd.runtime import Runtime

ALONE = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)
CONFIG = load_config(None, ["model.width=8", "evaluation.max_samples=96"])


class Steps(nn.Module):
    """Rounds pixels to quarters: the gradient is 0 everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.round(images * 4) / 4


class Confident(nn.Module):
    """Makes logits so large that the softmax's gradient underflows."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits * 1e4


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(CONFIG.data)


def trained(dataset: Dataset, seed: int, robust: bool = False) -> nn.Module:
    config = CONFIG.model_copy(update={"seed": seed})
    options = {"attack": build_attack(config.attack)} if robust else {}
    steps = 300 if robust else 200
    device = ALONE.device
    return train_surrogate(config, dataset, num_steps=steps, device=device, **options)


@pytest.fixture(scope="module")
def plain(dataset: Dataset) -> nn.Module:
    return trained(dataset, seed=1)


@pytest.fixture(scope="module")
def surrogate(dataset: Dataset) -> nn.Module:
    return trained(dataset, seed=2)


def report(
    model: nn.Module, surrogate: nn.Module, dataset: Dataset, folder: Path
) -> dict[str, bool | None]:
    """Each check's outcome; the picture is drawn too."""
    plan = Plan.make(CONFIG.evaluation.attack, dataset.image_shape)
    sizes = Request(output=folder)
    found = gather_findings(model, surrogate, plan, dataset, CONFIG, sizes, ALONE)
    checks = run_checks(found)
    plot_sanity(describe(found, checks), folder / "sanity.png")
    assert (folder / "sanity.png").read_bytes().startswith(b"\x89PNG")
    return {check.name: check.passed for check in checks}


@pytest.mark.slow
def test_a_sound_network_is_not_flagged(
    dataset: Dataset, surrogate: nn.Module, tmp_path: Path
) -> None:
    sound = trained(dataset, seed=1, robust=True)
    outcome = report(sound, surrogate, dataset, tmp_path)
    assert set(outcome.values()) == {True}, outcome


def test_a_quantised_input_is_flagged(
    dataset: Dataset, plain: nn.Module, surrogate: nn.Module, tmp_path: Path
) -> None:
    outcome = report(nn.Sequential(Steps(), plain), surrogate, dataset, tmp_path)
    for name in (
        "gradients are there",
        "nothing survives everything",
        "noise finds no more",
        "transfer finds no more",
    ):
        assert outcome[name] is False, outcome


def test_a_saturated_softmax_is_flagged(
    dataset: Dataset, plain: nn.Module, surrogate: nn.Module, tmp_path: Path
) -> None:
    outcome = report(nn.Sequential(plain, Confident()), surrogate, dataset, tmp_path)
    for name in (
        "gradients are there",
        "nothing survives everything",
        "the loss matters little",
    ):
        assert outcome[name] is False, outcome


def test_a_surrogate_that_cannot_read_decides_nothing(
    dataset: Dataset, plain: nn.Module, tmp_path: Path
) -> None:
    linear = nn.Linear(64, 10)
    nn.init.zeros_(linear.weight)
    blank = nn.Sequential(nn.Flatten(), linear)
    outcome = report(plain, blank, dataset, tmp_path)
    assert outcome["transfer finds no more"] is None


def test_the_surrogate_is_decided_by_the_seed_and_spares_the_generator(
    dataset: Dataset,
) -> None:
    before = torch.random.get_rng_state()

    def weights(config: Config) -> Tensor:
        device = ALONE.device
        model = train_surrogate(config, dataset, num_steps=2, device=device)
        return nn.utils.parameters_to_vector(model.parameters())

    assert torch.equal(weights(CONFIG), weights(CONFIG))
    other = CONFIG.model_copy(update={"seed": 5})
    assert not torch.equal(weights(CONFIG), weights(other))
    assert torch.equal(torch.random.get_rng_state(), before)
