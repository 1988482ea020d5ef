"""The estimate of the objective's gradient, by closed forms and beside training."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dathvd import stop
from dathvd.config import Config, load_config
from dathvd.data import Dataset, TensorImages
from dathvd.errors import UserError
from dathvd.objectives import build_objective
from dathvd.report.plots import plot_training
from dathvd.run_folder import read_metrics, read_result
from dathvd.runtime import Runtime, start
from dathvd.training.batches import Extra, plan_of
from dathvd.training.run import train
from dathvd.training.stationarity import (
    Estimate,
    Stationarity,
    gradient,
    squared_length,
    worst_case_attack,
)

CPU = torch.device("cpu")
ALONE = Runtime(0, 1, 0, 1, CPU, "mpi", 1)
ON = [
    "train.stationarity.every=2", "train.stationarity.num_samples=12",
    "train.stationarity.group_size=4", "train.stationarity.num_steps=2",
]  # fmt: skip
RUN = [
    "data.name=synthetic", "data.image_size=8", "data.num_train=40",
    "data.num_test=8", "train.batch_size=16", "model.width=4",
    "model.normalization=batch", "attack.num_steps=1", "attack.epsilon=0.1",
    "data.augment=true", "train.epochs=3", "train.overlap=attack",
    "train.ema_decay=0.5", "train.backward_passes_per_step=2",
    "train.guard.action=warn", "train.guard.num_samples=8", "compression.name=sign",
    "train.log_every=4", "train.checkpoint_every=0", "evaluation.attack.num_steps=1",
    "evaluation.attack.restarts=1", "evaluation.pictures=false", "train.device=cpu",
]  # fmt: skip


def estimate(vectors: Tensor) -> Estimate:
    """The estimate from the rows of ``[K, d]``."""
    total = vectors.sum(dim=0)
    squares = vectors.square().sum(dim=1)
    return squared_length(float(total @ total), squares, vectors @ total)


def direct(vectors: Tensor) -> float:
    """The mean of all products of two different rows."""
    count = len(vectors)
    products = [
        float(vectors[i] @ vectors[j])
        for i in range(count)
        for j in range(count)
        if i != j
    ]
    return math.fsum(products) / len(products)


def test_it_is_the_mean_of_all_products_with_its_jackknife() -> None:
    vectors = torch.randn(7, 5, dtype=torch.float64) + 0.3
    found = estimate(vectors)
    assert found.value == pytest.approx(direct(vectors), rel=1e-12)
    rest = [
        direct(torch.cat([vectors[:place], vectors[place + 1 :]])) for place in range(7)
    ]
    mean = math.fsum(rest) / 7
    variance = 6 / 7 * math.fsum((each - mean) ** 2 for each in rest)
    assert found.error == pytest.approx(math.sqrt(variance), rel=1e-9)


@pytest.mark.parametrize("length", [0.0, 1.0])
def test_it_is_unbiased_where_a_mean_s_own_square_is_not(length: float) -> None:
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(4000, 6, 8, generator=generator, dtype=torch.float64)
    draws[:, :, 0] += length
    found = [estimate(each) for each in draws]
    values = torch.tensor([each.value for each in found])
    spread = float(values.std())
    assert float(values.mean()) == pytest.approx(
        length**2, abs=3 * spread / math.sqrt(len(draws))
    )
    naive = draws.mean(dim=1).square().sum(dim=1).mean()
    assert float(naive) == pytest.approx(length**2 + 8 / 6, rel=0.1)
    # the jackknife's variance is not too small on average, nor useless
    claimed = math.sqrt(sum(each.error**2 for each in found) / len(found))
    assert spread < 1.05 * claimed < 2 * spread


def dataset(count: int = 20) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(
        256, (count, 1, 2, 2), generator=generator, dtype=torch.uint8
    )
    images = TensorImages(pixels, torch.arange(count) % 3)
    return Dataset(images, images, ("a", "b", "c"), (1, 2, 2))


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()


def measuring(config: Config, data: Dataset) -> Stationarity:
    return Stationarity(config, plan_of(config, data, CPU, 0, 1), ALONE)


def configured(*overrides: str) -> Config:
    return load_config(None, [*ON, "objective.clean_weight=0", *overrides])


def test_over_samples_it_is_the_closed_form_of_softmax_regression() -> None:
    """mean of (p - y) x^T over all training images, biases alike."""
    data, model = dataset(), linear()
    layer: Any = model[1]
    inputs = data.train.batch(torch.arange(20)).flatten(1).double() / 255
    logits = inputs @ layer.weight.double().T + layer.bias.double()
    wrong = logits.softmax(dim=1) - torch.eye(3)[data.train.labels]
    weights = torch.cat([(wrong.T @ inputs).flatten(), wrong.sum(dim=0)]) / 20
    expected = float(weights.detach().square().sum())
    values = []
    for seed in range(150):
        config = configured("attack.epsilon=0", f"seed={seed}")
        found = measuring(config, data)(model, build_objective(config.objective))
        assert found is not None
        values.append(found.value)
    spread = torch.tensor(values).std() / math.sqrt(len(values))
    assert sum(values) / len(values) == pytest.approx(expected, abs=3 * float(spread))
    assert float(spread) < expected / 3
    assert all(weight.grad is None for weight in model.parameters())


def test_it_attacks_in_the_ball_and_sums_what_the_groups_have() -> None:
    config, data, model = configured("attack.epsilon=0.2"), dataset(), linear()
    measure, objective = measuring(config, data), build_objective(config.objective)
    groups = list(measure._groups())
    assert [len(batch.labels) for batch in groups] == [4, 4, 4]
    vectors = []
    for batch in groups:
        # two steps of 2.5 / 2 epsilon reach the corner that a linear model dreads
        layer: Any = model[1]
        with torch.no_grad():
            before = nn.functional.cross_entropy(model(batch.images), batch.labels)
        images = batch.images.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(images), batch.labels)
        (ascent,) = torch.autograd.grad(loss, images)
        corner = (batch.images + 0.2 * ascent.sign()).clamp(0, 1)
        vectors.append(gradient(model, objective, batch, corner))
        with torch.no_grad():
            after = nn.functional.cross_entropy(model(corner), batch.labels)
        assert after > before and layer.weight.grad is None
    found = measure(model, objective)
    assert found is not None
    assert found.value == pytest.approx(direct(torch.stack(vectors)), rel=0.1)
    assert measure(model, objective) == found


def test_a_gradient_that_is_not_finite_is_no_number() -> None:
    config, model = configured(), linear()
    layer: Any = model[1]
    with torch.no_grad():
        layer.weight[0, 0] = torch.nan
    measure = measuring(config, dataset())
    assert measure(model, build_objective(config.objective)) is None


def test_a_sample_is_drawn_as_training_draws() -> None:
    config, data = configured(), dataset(1000)
    plan = plan_of(config, data, CPU, 0, 1)
    places = plan.sample(6000, 5)
    assert torch.equal(places, plan.sample(6000, 5))
    counts = places.bincount(minlength=1000).double()
    assert counts.mean() == 6 and counts.std() == pytest.approx(math.sqrt(6), rel=0.1)
    mixed = copy.copy(plan)
    object.__setattr__(mixed, "extra", Extra(100, 0.5))
    shares = (mixed.sample(6000, 5) >= 900).double().mean()
    assert float(shares) == pytest.approx(0.5, abs=0.02)
    # an image that is drawn twice starts its attack from two points
    twice = plan.draw(torch.tensor([3, 3]), torch.tensor([0, 1]))
    one, other = twice.noise.uniform((2, 4))
    assert torch.equal(twice.images[0], twice.images[1]) and not torch.equal(one, other)


def test_the_attack_is_strong_in_the_ball_of_training() -> None:
    config = load_config(
        None,
        [*ON, "attack.name=fgsm", "attack.norm=l2", "attack.epsilon=0.5",
         "objective.name=trades", "train.stationarity.restarts=2"],
    )  # fmt: skip
    attack = worst_case_attack(config)
    assert (attack.name, attack.norm, attack.epsilon) == ("pgd", "l2", 0.5)
    assert (attack.num_steps, attack.restarts) == (2, 2)
    assert attack.step_size * attack.num_steps == pytest.approx(2.5 * 0.5)
    assert attack.loss == config.attack.loss


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["attack.name=none"], "no worst-case loss of labelled images"),
        (["objective.name=contrastive"], "set train.stationarity.every to 0"),
        (["train.stationarity.num_samples=9"], "9 images are not 3 or more groups"),
        (["train.stationarity.num_samples=8"], "of group_size 4; take 12"),
    ],
)
def test_what_cannot_be_measured_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(None, [*ON, *overrides])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same run without estimates, with them, and with them after a stop."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stop, "listen", lambda: None)
        patch.setattr(stop, "leave_when_asked", lambda: None)
        alone = start("cpu")
        found = {name: folder / name for name in ("without", "with", "resumed")}
        train(load_config(None, RUN), found["without"], alone)
        train(load_config(None, [*RUN, *ON]), found["with"], alone)
        for steps in (3, 0):
            part = load_config(None, [*RUN, *ON, f"train.max_steps={steps}"])
            train(part, found["resumed"], alone)
    return found


@pytest.mark.slow
def test_training_does_not_notice(runs: dict[str, Path]) -> None:
    hashes = {
        (result["parameters_sha256"], result["ema_parameters_sha256"])
        for result in map(read_result, runs.values())
        if result is not None
    }
    assert len(hashes) == 1


def measured(run: Path) -> list[tuple[int, float, float]]:
    key = "gradient_norm_squared"
    rows = [row for row in read_metrics(run) if key in row]
    return [(row["step"], row[key], row[f"{key}_error"]) for row in rows]


def test_a_resumed_run_logs_the_same(runs: dict[str, Path]) -> None:
    found = measured(runs["with"])
    assert [step for step, *_ in found] == [2, 4, 6]
    assert len({value for _, value, _ in found}) == 3
    assert all(error > 0 for *_, error in found)
    assert measured(runs["resumed"]) == found and not measured(runs["without"])


def test_it_is_a_curve_of_the_run(runs: dict[str, Path], tmp_path: Path) -> None:
    sizes = []
    for name in ("without", "with"):
        rows = [json.loads(line) for line in (runs[name] / "metrics.jsonl").open()]
        plot_training(rows, tmp_path / f"{name}.png")
        sizes.append((tmp_path / f"{name}.png").stat().st_size)
    assert sizes[1] > sizes[0] > 1000
