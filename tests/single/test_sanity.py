"""The checks for masked gradients: they flag masked networks, and spare a sound one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from dathvd.attacks import build_attack
from dathvd.cli import cli
from dathvd.config import Config, load_config
from dathvd.data import Dataset, load_dataset
from dathvd.errors import UserError
from dathvd.evaluation.requests import Request, evaluate_test_set
from dathvd.evaluation.sanity.checks import Plan, run_checks
from dathvd.evaluation.sanity.measurement import (
    SanityRequest,
    check_sanity,
    describe,
    gather_findings,
    surrogate_attack,
)
from dathvd.evaluation.sanity.surrogate import train_surrogate
from dathvd.report.sanity import plot_sanity
from dathvd.runtime import Runtime
from tests.saved_network import save_network

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


class Detached(nn.Module):
    """Images without their gradient: 0 everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return images.detach() + 0 * images


class CutOff(nn.Module):
    """Images without any gradient, as after a detour through another library."""

    def forward(self, images: Tensor) -> Tensor:
        return images.detach()


def test_a_network_that_is_cut_off_from_its_images_is_flagged(
    dataset: Dataset, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 10)
    for weighs in (True, False):  # with and without a gradient for its weights
        broken = nn.Sequential(CutOff(), nn.Flatten(), linear.requires_grad_(weighs))
        few = CONFIG.evaluation.model_copy(update={"max_samples": 16})
        config = CONFIG.model_copy(update={"evaluation": few})
        with pytest.raises(UserError, match="gives no gradient for its images"):
            evaluate_test_set(broken, dataset, config, ALONE)
        plan = Plan.make(CONFIG.evaluation.attack, dataset.image_shape)
        surrogate = nn.Sequential(nn.Flatten(), linear)
        found = gather_findings(
            broken, surrogate, plan, dataset, config, Request(), ALONE
        )
        assert not found.gradient.any()
        (check,) = [c for c in run_checks(found) if c.name == "gradients are there"]
        assert check.passed is False


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


@pytest.fixture(scope="module")
def sound(dataset: Dataset) -> nn.Module:
    return trained(dataset, seed=1, robust=True)


@pytest.fixture(scope="module")
def robust_surrogate(dataset: Dataset) -> nn.Module:
    """As ``dathvd sanity`` trains one."""
    plan = Plan.make(CONFIG.evaluation.attack, dataset.image_shape)
    config = CONFIG.model_copy(update={"seed": 2})
    return train_surrogate(
        config,
        dataset,
        num_steps=300,
        device=ALONE.device,
        attack=surrogate_attack(plan),
    )


def report(
    model: nn.Module,
    surrogate: nn.Module,
    dataset: Dataset,
    folder: Path,
    *,
    autoattack: bool = False,
) -> dict[str, bool | None]:
    """Each check's outcome; the picture is drawn too."""
    settings = CONFIG.evaluation.attack
    plan = Plan.make(settings, dataset.image_shape, autoattack=autoattack)
    sizes = Request(output=folder)
    config = CONFIG
    if autoattack:
        few = CONFIG.evaluation.model_copy(update={"max_samples": 32})
        config = CONFIG.model_copy(update={"evaluation": few})
    found = gather_findings(model, surrogate, plan, dataset, config, sizes, ALONE)
    checks = run_checks(found)
    plot_sanity(describe(found, checks), folder / "sanity.png")
    assert (folder / "sanity.png").read_bytes().startswith(b"\x89PNG")
    return {check.name: check.passed for check in checks}


@pytest.mark.slow
def test_a_sound_network_is_not_flagged(
    dataset: Dataset,
    sound: nn.Module,
    surrogate: nn.Module,
    robust_surrogate: nn.Module,
    tmp_path: Path,
) -> None:
    outcome = report(sound, surrogate, dataset, tmp_path / "natural")
    assert set(outcome.values()) == {True}, outcome
    folder = tmp_path / "robust"
    outcome = report(sound, robust_surrogate, dataset, folder, autoattack=True)
    assert "AutoAttack finds little more" in outcome
    assert set(outcome.values()) == {True}, outcome


@pytest.mark.slow
@pytest.mark.parametrize("layer", [Steps, Detached])
def test_robust_weights_without_gradients_are_convicted(
    layer: type[nn.Module],
    dataset: Dataset,
    sound: nn.Module,
    robust_surrogate: nn.Module,
    tmp_path: Path,
) -> None:
    """Quantised inputs and detached gradients, over weights that resist by themselves:
    a robust network's examples and AutoAttack's random search reach them."""
    broken = nn.Sequential(layer(), sound)
    outcome = report(broken, robust_surrogate, dataset, tmp_path, autoattack=True)
    for name in (
        "gradients are there",
        "nothing survives everything",
        "transfer finds no more",
        "AutoAttack finds little more",
    ):
        assert outcome[name] is False, outcome


@pytest.mark.slow
def test_a_temperature_over_robust_weights_is_convicted(
    dataset: Dataset, sound: nn.Module, robust_surrogate: nn.Module, tmp_path: Path
) -> None:
    """By its own margin: the examples of others find no more than that does."""
    broken = nn.Sequential(sound, Confident())
    outcome = report(broken, robust_surrogate, dataset, tmp_path)
    assert outcome["gradients are there"] is False, outcome
    assert outcome["the loss matters little"] is False, outcome


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_the_surrogate_learns_from_images_as_large_as_the_networks() -> None:
    cropped = ["data.augment=true", "data.image_size=10", "data.crop_size=6"]
    config = load_config(None, ["model.name=mlp", *cropped])
    dataset = load_dataset(config.data)
    model = train_surrogate(config, dataset, num_steps=1, device=ALONE.device)
    assert model(torch.rand(2, 1, 6, 6)).shape == (2, 10)


def test_what_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    dimension = ["objective.name=contrastive", "objective.dimension=10"]
    run = save_network(tmp_path / "run", (1, 8, 8), 10, *dimension)
    with pytest.raises(UserError, match="pre-trained by contrastive, it knows no"):
        check_sanity(str(run), SanityRequest(), ALONE)
    done = CliRunner().invoke(cli, ["sanity", str(run), "--epsilon", "0.1,8/255"])
    assert isinstance(done.exception, UserError)
    assert "--epsilon 0.1,8/255: expected one radius" in str(done.exception)


def test_a_named_surrogate_needs_no_training_images(tmp_path: Path) -> None:
    gone = f"data.extra={tmp_path}/gone.npz"
    run = save_network(tmp_path / "run", (1, 8, 8), 10, "model.name=mlp", gone)
    few = Request(max_samples=8)
    request = SanityRequest(surrogate=str(run), num_steps=1, evaluation=few)
    check_sanity(str(run), request, ALONE)
    with pytest.raises(UserError, match="data.extra: .*gone.npz cannot be read"):
        check_sanity(str(run), SanityRequest(evaluation=few), ALONE)


def test_a_network_that_reads_no_image_right_is_refused(tmp_path: Path) -> None:
    """Every check would hold of it, as nothing is left to be lost."""
    run = save_network(tmp_path / "run", (1, 8, 8), 10, "model.name=mlp")
    blind = SanityRequest(
        surrogate=str(run), num_steps=1, evaluation=Request(max_samples=2)
    )
    with pytest.raises(UserError, match="run .*: reads none of 2 images right"):
        check_sanity(str(run), blind, ALONE)
