"""Extra images in every worker's batch, by a ratio and with a weight of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dathvd.benchmark.step.trainers import batch_plan, build_trainer
from dathvd.config import Config, load_config
from dathvd.data import Dataset, load_dataset
from dathvd.errors import UserError
from dathvd.training.batches import Batch, BatchPlan

OWN, EXTRA, BATCH, CPU = 30, 17, 8, torch.device("cpu")


@pytest.fixture(scope="module")
def extra_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Extra images that are brighter than 0.5 everywhere; the own ones are darker."""
    path = tmp_path_factory.mktemp("extra") / "extra.npz"
    draw = np.random.default_rng(0)
    images = draw.integers(128, 256, size=(EXTRA, 8, 8, 3), dtype=np.uint8)
    np.savez(path, x_train=images, y_train=draw.integers(0, 4, size=EXTRA))
    return path


def configured(extra_file: Path, *more: str) -> tuple[Config, Dataset]:
    config = load_config(
        None,
        [
            "data.name=synthetic", f"data.num_train={OWN}", "data.image_size=8",
            "data.num_classes=4", "data.num_test=1", f"train.batch_size={BATCH}",
            "attack.num_steps=1", "model.width=2",
            f"data.extra={extra_file}", *more,
        ],
    )  # fmt: skip
    dataset = load_dataset(config.data)
    for images in vars(dataset.train)["parts"][0].images:
        images.clamp_(max=127)
    return config, dataset


def extra_in(batch: Batch) -> torch.Tensor:
    return batch.images.flatten(1).amin(1) > 0.5


def epoch_batches(plan: BatchPlan, epoch: int = 0) -> list[list[Batch]]:
    first = epoch * plan.steps_per_epoch
    return [list(plan.step(first + place)) for place in range(plan.steps_per_epoch)]


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("size, passes", [(1, 1), (3, 1), (2, 2)])
def test_every_workers_share_holds_the_ratio(
    extra_file: Path, ratio: float, size: int, passes: int
) -> None:
    config, dataset = configured(
        extra_file,
        f"data.extra_ratio={ratio}",
        f"train.backward_passes_per_step={passes}",
    )
    for rank in range(size):
        plan = batch_plan(config, dataset, CPU, rank, size)
        for batch in (part for step in epoch_batches(plan) for part in step):
            expected = ratio * len(batch.labels)
            assert abs(int(extra_in(batch).sum()) - expected) <= 1


def test_an_epoch_is_one_pass_over_the_own_images(extra_file: Path) -> None:
    config, dataset = configured(extra_file, "data.extra_ratio=0.6")
    plan = batch_plan(config, dataset, CPU)
    assert plan.images_per_epoch == pytest.approx(OWN / 0.4, abs=1 / 0.4)
    own = dataset.train.batch(torch.arange(OWN)).float() / 255
    for epoch in (0, 3):
        steps = epoch_batches(plan, epoch)
        images = torch.cat([part.images for step in steps for part in step])
        assert len(images) == plan.images_per_epoch
        dark = images[images.flatten(1).amin(1) <= 0.5]
        assert torch.equal(sort_rows(dark), sort_rows(own))


def sort_rows(images: torch.Tensor) -> torch.Tensor:
    rows = images.flatten(1)
    return rows[rows.sum(1).argsort()]


def test_workers_share_the_same_order(extra_file: Path) -> None:
    config, dataset = configured(extra_file, "data.extra_ratio=0.5")
    alone = batch_plan(config, dataset, CPU)
    three = [batch_plan(config, dataset, CPU, rank, 3) for rank in range(3)]
    for step in (0, alone.steps_per_epoch - 1, 2 * alone.steps_per_epoch + 1):
        whole = torch.cat([batch.images for batch in alone.step(step)])
        parts = [batch.images for plan in three for batch in plan.step(step)]
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("ratio", [None, 0.5])
def test_the_weighted_loss_is_its_closed_form(
    extra_file: Path, ratio: float | None
) -> None:
    chosen = ["data.extra_weight=0.3", "attack.name=none", "objective.name=plain"]
    if ratio is not None:
        chosen.append(f"data.extra_ratio={ratio}")
    config, dataset = configured(extra_file, *chosen)
    trainer = build_trainer(config, dataset, CPU)
    [batch] = batch_plan(config, dataset, CPU).step(0)
    is_extra = extra_in(batch)
    assert 0 < is_extra.sum() < len(is_extra)
    with torch.no_grad():
        logits = trainer.model(batch.images).double()
    losses = -logits.log_softmax(1).gather(1, batch.labels[:, None]).squeeze(1)
    expected = (losses[~is_extra].sum() + 0.3 * losses[is_extra].sum()) / len(losses)
    trainer.step([batch], 0.0)
    count, loss = trainer.totals.sums[:2].tolist()
    assert loss / count == pytest.approx(float(expected), rel=1e-6)


def test_a_weight_of_zero_leaves_the_gradient_of_the_own_images(
    extra_file: Path,
) -> None:
    config, dataset = configured(
        extra_file, "data.extra_ratio=0.5", "data.extra_weight=0"
    )
    trainer = build_trainer(config, dataset, CPU)
    [batch] = batch_plan(config, dataset, CPU).step(0)
    own = ~extra_in(batch)
    trainer.step([batch], 0.0)
    found = [weight.grad for weight in trainer.model.parameters()]
    trainer.optimizer.zero_grad(set_to_none=True)
    adversarial = trainer.attack(trainer.model, batch.images, batch.labels, batch.noise)
    losses = trainer.objective(
        trainer.model, batch.images[own], adversarial[own], batch.labels[own]
    )
    (losses.loss * own.float().mean()).backward()
    for gradient, weight in zip(found, trainer.model.parameters(), strict=True):
        torch.testing.assert_close(gradient, weight.grad)


def test_without_ratio_and_weight_all_images_are_shuffled_together(
    extra_file: Path,
) -> None:
    config, dataset = configured(extra_file)
    plan = batch_plan(config, dataset, CPU)
    batches = [part for step in epoch_batches(plan) for part in step]
    assert plan.images_per_epoch == OWN + EXTRA
    assert sum(int(extra_in(batch).sum()) for batch in batches) == EXTRA
    assert all(batch.weights is None for batch in batches)


@pytest.mark.parametrize(
    "override, message",
    [
        ("data.extra_ratio=0.5", "extra_ratio needs extra images: set extra"),
        ("data.extra_weight=2", "extra_weight needs extra images: set extra"),
        ("data.extra_ratio=1.0", "data.extra_ratio: input should be less than 1"),
        ("data.extra_ratio=0", "data.extra_ratio: input should be greater than 0"),
    ],
)
def test_a_ratio_that_means_nothing_is_refused(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(None, [override])
    assert message in str(caught.value)
