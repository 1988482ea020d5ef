"""Randomised smoothing: bounds against scipy, radii against a closed form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from dathvd.config import load_config
from dathvd.data import load_dataset
from dathvd.errors import UserError
from dathvd.evaluation import Request
from dathvd.evaluation.smoothing import ABSTAIN, CertifyRequest, certify, certify_run
from dathvd.evaluation.smoothing.certificate import (
    Certificate,
    Smoothing,
    lower_bound,
    radius_of,
)
from dathvd.evaluation.smoothing.judging import certify_images, describe
from dathvd.runtime import Runtime
from dathvd.training.batches import plan_of
from tests.saved_network import save_network

CPU = torch.device("cpu")
ALONE = Runtime(0, 1, 0, 1, CPU, "mpi", 1)


@pytest.mark.parametrize("draws", [1, 10, 100, 100_000])
@pytest.mark.parametrize("failure", [0.001, 0.05, 0.3])
def test_the_bound_is_clopper_and_pearsons(draws: int, failure: float) -> None:
    for hits in {0, 1, draws // 2, draws - 1, draws}:
        test = stats.binomtest(hits, draws, alternative="greater")
        expected = test.proportion_ci(1 - failure, method="exact").low
        assert lower_bound(hits, draws, failure) == pytest.approx(expected, abs=1e-12)


def test_the_radius_is_that_of_theorem_1() -> None:
    assert radius_of(0.5, 1.0) == radius_of(0.1, 1.0) == 0.0
    for bound in (0.51, 0.9, 0.999):
        assert radius_of(bound, 0.25) == pytest.approx(0.25 * stats.norm.ppf(bound))
    # all of 100,000 draws: the largest radius that there is, published as 0.96 for 0.25
    largest = radius_of(lower_bound(100_000, 100_000, 0.001), 0.25)
    assert largest == pytest.approx(0.954, abs=0.01)


class HalfSpace(nn.Module):
    """Class 1 where the sum of the pixels is above a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        over = images.flatten(1).sum(dim=1) - self.threshold
        return torch.stack([-over, over], dim=1)


def test_a_half_space_is_certified_up_to_its_distance() -> None:
    """Of a linear network the radius is the distance to its boundary."""
    image = torch.full((1, 4, 4), 0.5)
    asked = Smoothing(0.5, num_guess=50, num_draws=20_000, batch_size=3000)
    for distance in (0.2, 0.6):
        model = HalfSpace(8.0 - 4 * distance)  # |gradient| is the root of 16
        found = certify(model, image, 7, asked)
        assert found.predicted == 1
        assert distance - 0.05 < found.radius <= distance + 0.01
        again = certify(model, image, 7, replace(asked, batch_size=999))
        assert again == found  # draws are numbered, not batched
    unsure = certify(HalfSpace(8.0), image, 7, asked)
    assert unsure.predicted == ABSTAIN and unsure.radius == 0.0


def test_nothing_is_certain_of_a_network_that_says_nothing() -> None:
    broken = HalfSpace(float("nan"))
    found = certify(broken, torch.rand(1, 2, 2), 3, Smoothing(0.3, 10, 100, 0.01))
    assert found == Certificate(ABSTAIN, 0.0)


def test_accuracies_count_what_is_right_and_certain() -> None:
    predicted = torch.tensor([1, ABSTAIN, 2, 0])
    radii = torch.tensor([0.3, 0.0, 0.9, 0.6]).double()
    found = describe(predicted, radii, torch.tensor([1, 1, 0, 0]))
    assert found["accuracy"] == 0.5 and found["abstained"] == 0.25
    assert found["average_radius"] == pytest.approx(0.225)
    shares = found["certified_accuracy"]
    assert (shares["0"], shares["0.25"], shares["0.5"], shares["0.75"]) == (
        0.5,
        0.5,
        0.25,
        0.0,
    )


def test_workers_share_the_images_and_give_one_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(None, ["data.noise=0.3", "attack.name=none",
                                "objective.name=plain"])  # fmt: skip
    dataset = load_dataset(config.data)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    request = CertifyRequest(Smoothing(0.3, 10, 200, 0.01))
    places = torch.tensor([0, 3, 4, 9, 11])
    whole = certify_images(model, dataset, places, config, request, ALONE)
    monkeypatch.setattr(
        "dathvd.evaluation.smoothing.judging.sum_over_workers",
        lambda runtime, values, name: values,
    )
    halves = [
        certify_images(
            model, dataset, places, config, request, replace(ALONE, rank=rank, size=2)
        )
        for rank in range(2)
    ]
    for place, expected in enumerate(whole):
        assert torch.equal(halves[0][place] + halves[1][place], expected)


def test_certificates_are_kept_and_gone_on_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = save_network(tmp_path / "run", (1, 8, 8), 10, "evaluation.max_samples=4")
    output = tmp_path / "out"
    asked = Smoothing(0.0, 10, 100, 0.01)
    request = CertifyRequest(asked, 2, Request(output=output))
    with pytest.raises(UserError, match="trained without noise .* set --sigma"):
        certify_run(str(run), request, ALONE)
    request = replace(request, smoothing=replace(asked, sigma=0.2))
    certify_run(str(run), request, ALONE)
    first = json.loads((output / "result.json").read_text())
    names = sorted(file.stem for file in (output / "samples").iterdir())
    assert [int(name) for name in names] == [0, 2, 4, 6]
    changed = output / "samples" / f"{names[0]}.json"
    changed.write_text('{"predicted": 3, "radius": 9.0}')
    (output / "samples" / f"{names[1]}.json").unlink()
    certify_run(str(run), request, ALONE)  # takes what is there, makes what is not
    assert json.loads(changed.read_text())["radius"] == 9.0
    changed.unlink()
    certify_run(str(run), request, ALONE)
    again = json.loads((output / "result.json").read_text())
    assert again == first and first["num_samples"] == 4 and first["sigma"] == 0.2
    assert "certified accuracy" in capsys.readouterr().out
    other = replace(request, smoothing=replace(asked, sigma=0.5))
    with pytest.raises(UserError, match="choose another --output"):
        certify_run(str(run), other, ALONE)


def test_training_images_are_noisy_by_sample_and_epoch() -> None:
    overrides = ["data.noise=0.5", "attack.name=none", "objective.name=plain",
                 "train.batch_size=300"]  # fmt: skip
    config = load_config(None, overrides)
    dataset = load_dataset(config.data)

    def images(rank: int, size: int, epoch: int = 0) -> Tensor:
        plan = plan_of(config, dataset, CPU, rank, size)
        return next(plan.step(epoch * plan.steps_per_epoch)).images

    whole = images(0, 1)
    assert torch.equal(whole, torch.cat([images(rank, 2) for rank in range(2)]))
    plain = load_config(None, overrides[1:])
    clean = next(plan_of(plain, dataset, CPU, 0, 1).step(0)).images
    noise = whole - clean
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(noise.std()) == pytest.approx(0.5, rel=0.02)
    assert bool((whole < 0).any()) and bool((whole > 1).any())
    with pytest.raises(UserError, match="to which attack.name pgd clips them"):
        load_config(None, ["data.noise=0.5"])


def test_a_pre_trained_network_is_refused_and_extra_images_are_not_missed(
    tmp_path: Path,
) -> None:
    asked = CertifyRequest(Smoothing(0.2, 10, 100, 0.01), 500)
    run = save_network(tmp_path / "views", (1, 8, 8), 128, "objective.name=contrastive")
    with pytest.raises(UserError, match="pre-trained by contrastive, it knows no"):
        certify_run(str(run), asked, ALONE)
    gone = f"data.extra={tmp_path}/gone.npz"
    certify_run(str(save_network(tmp_path / "run", (1, 8, 8), 10, gone)), asked, ALONE)
