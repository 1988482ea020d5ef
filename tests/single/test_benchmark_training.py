"""Benchmarks train what a run trains: the same builder, the same batches."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from dathvd.benchmark.codecs.gradient import training_gradient
from dathvd.benchmark.step.trainers import batch_plan, build_trainer, synthetic_data
from dathvd.config import Config, load_config
from dathvd.data import load_dataset
from dathvd.distributed.batch_norm import SynchronisedBatchNorm
from dathvd.tasks import load_task

CPU = torch.device("cpu")
QUICK = ["model.width=4", "attack.num_steps=1", "train.batch_size=16"]


def benchmarked(*overrides: str) -> Config:
    return synthetic_data(load_config(None, [*QUICK, *overrides]), num_images=16)


@pytest.mark.parametrize(
    "overrides",
    [
        ("objective.name=contrastive", "model.head=projection"),
        ("objective.name=rotation",),
        ("objective.name=trades",),
    ],
)
def test_a_step_of_every_task_has_a_finite_loss(overrides: tuple[str, ...]) -> None:
    config = benchmarked(*overrides)
    dataset = load_task(config)
    trainer = build_trainer(config, dataset, CPU)
    batches = list(batch_plan(config, dataset, CPU).step(0))
    trainer.step(batches, 0.01)
    images, loss = trainer.totals.sums[:2].tolist()
    assert images == len(batches[0].labels) and math.isfinite(loss) and loss > 0


def test_views_have_the_labels_of_their_task() -> None:
    config = benchmarked("objective.name=rotation")
    dataset = load_task(config)
    (batch,) = batch_plan(config, dataset, CPU).step(0)
    # four turns of each image, told apart by four classes
    assert len(dataset.classes) == 4 and batch.labels.tolist() == [0, 1, 2, 3] * 16
    config = benchmarked("objective.name=contrastive", "model.head=projection")
    (batch,) = batch_plan(config, load_task(config), CPU).step(0)
    # two views of each image, each of which has the other's place as its label
    assert batch.labels.tolist() == [place ^ 1 for place in range(32)]


def test_averages_and_frozen_trunks_are_part_of_the_step() -> None:
    config = benchmarked("train.ema_decay=0.9")
    assert build_trainer(config, load_task(config), CPU).averages
    config = benchmarked("model.init=runs/nowhere", "model.init_mode=linear")
    trainer = build_trainer(config, load_task(config), CPU)
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    assert 0 < len(trained) < len(list(trainer.model.parameters()))


def test_workers_meet_in_batch_norm_where_the_run_has_them_meet() -> None:
    """Of a worker that exchanges gradients; one that is alone sees all samples."""
    overrides = ["model.normalization=batch", "train.batch_norm=synchronised"]
    config = benchmarked(*overrides)
    for wrap, kind in (
        (None, torch.nn.BatchNorm2d),
        (lambda optimizer, named: optimizer, SynchronisedBatchNorm),
    ):
        model = build_trainer(config, load_task(config), CPU, wrap).model
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
        assert norms and {type(norm) for norm in norms} == {kind}


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("digits", (1, 8, 8), 10),
        ("mnist", (1, 28, 28), 10),
        ("fashion_mnist", (1, 28, 28), 10),
        ("cifar10", (3, 32, 32), 10),
        ("cifar100", (3, 32, 32), 100),
        ("svhn", (3, 32, 32), 10),
    ],
)
def test_random_images_have_the_shape_of_those_they_stand_for(
    name: str, shape: tuple[int, int, int], classes: int
) -> None:
    dataset = load_dataset(benchmarked(f"data.name={name}").data)
    assert (dataset.image_shape, len(dataset.classes)) == (shape, classes)


def test_a_crop_stays_a_crop() -> None:
    config = benchmarked(
        "data.name=image_folder", "data.image_size=40", "data.crop_size=32"
    )
    dataset = load_task(config)
    (batch,) = batch_plan(config, dataset, CPU).step(0)
    assert batch.images.shape[-2:] == (32, 32) and dataset.image_shape == (3, 32, 32)


def test_the_gradient_of_codecs_is_that_of_a_training_step() -> None:
    config = load_config(None, [*QUICK, "data.num_train=48", "data.name=synthetic"])
    found = training_gradient(config, 2)
    dataset = load_task(config)
    trainer = build_trainer(config, dataset, CPU)
    plan = batch_plan(config, dataset, CPU)
    flat = []
    for step in range(2):
        trainer.step(list(plan.step(step)), config.optimizer.lr)
        large = [p for p in trainer.model.parameters() if p.ndim > 1]
        gradients = [p.grad for p in reversed(large) if p.grad is not None]
        flat.append(torch.cat([gradient.flatten() for gradient in gradients]))
    assert found.previous is not None
    assert torch.equal(found.previous, flat[0]) and torch.equal(found.values, flat[1])
