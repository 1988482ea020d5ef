"""Erased and mixed images equal their definitions, on any number of workers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dathvd.attacks import build_attack
from dathvd.components import MIXES
from dathvd.config import Config, load_config
from dathvd.data import load_dataset
from dathvd.data.erasing import cutout, random_erasing
from dathvd.data.mixing import cutmix, mixup, partners, shares, soft_labels
from dathvd.errors import UserError
from dathvd.noise import SampleNoise
from dathvd.objectives import build_objective
from dathvd.training.batches import Batch, plan_of
from tests.single.small_models import batch, network

CPU = torch.device("cpu")
COUNT = 400


def noise(count: int = COUNT, seed: int = 0) -> SampleNoise:
    return SampleNoise(seed, torch.arange(count))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_cutout_hides_one_square_whose_centre_lies_anywhere(dtype: torch.dtype) -> None:
    images = torch.ones(COUNT, 3, 8, 8).to(dtype)
    black = cutout(images, noise(), size=0.5) == 0
    assert torch.equal(black[:, 0], black[:, 2])
    rows, columns = black[:, 0].any(dim=2).sum(dim=1), black[:, 0].any(dim=1).sum(dim=1)
    assert torch.equal(black[:, 0].sum(dim=(1, 2)), rows * columns)
    # half of the side is cut off at the border, at most
    assert set(rows.tolist()) == {2, 3, 4} == set(columns.tolist())
    assert black[:, 0].any(dim=0).all() and black.dtype is torch.bool
    assert (images == 1).all()


def test_random_erasing_spares_half_and_keeps_within_its_areas() -> None:
    images = torch.full((COUNT, 1, 24, 24), 2.0)
    hidden = (random_erasing(images, noise()) != 2.0)[:, 0]
    areas = hidden.float().mean(dim=(1, 2))
    erased = areas > 0
    assert abs(erased.float().mean() - 0.5) < 0.08
    assert 0.015 <= areas[erased].min() and areas.max() <= 0.45
    rows, columns = hidden.any(dim=2).sum(dim=1), hidden.any(dim=1).sum(dim=1)
    assert torch.equal(hidden.sum(dim=(1, 2)), rows * columns)
    assert torch.equal(random_erasing(images, noise(), share=0.0), images)
    assert random_erasing(images.byte(), noise()).dtype is torch.uint8


def test_mixup_is_the_weighted_mean_and_cutmix_a_rectangle_of_the_kept_share() -> None:
    own, other = torch.zeros(COUNT, 3, 8, 8), torch.ones(COUNT, 3, 8, 8)
    kept = shares(noise(), COUNT, alpha=1.0)
    mixed, same = mixup(own, other, kept, noise())
    assert torch.equal(same, kept)
    assert torch.allclose(mixed, (1 - kept).view(-1, 1, 1, 1).expand_as(mixed))
    pasted, left = cutmix(own, other, kept, noise())
    assert set(pasted.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(left, 1 - pasted.mean(dim=(1, 2, 3)))
    inner = (kept > 0.9) & (left < 1)
    assert (left - kept)[inner].abs().max() < 0.1
    assert (left >= kept - 1e-6).all()  # what reaches beyond the border is kept


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_follow_the_beta_law(alpha: float) -> None:
    found = shares(noise(20_000), 20_000, alpha)
    assert abs(found.mean() - 0.5) < 0.01
    assert abs(found.var() - 1 / (4 * (2 * alpha + 1))) < 0.004
    assert 0 <= found.min() and found.max() <= 1


def test_partners_are_any_images_and_labels_have_their_shares() -> None:
    found = partners(noise(20_000), 20_000, 10)
    counts = found.bincount(minlength=10) / 20_000
    assert (counts - 0.1).abs().max() < 0.01
    labels, others = torch.tensor([0, 1]), torch.tensor([2, 1])
    soft = soft_labels(labels, others, torch.tensor([0.25, 0.5]), 3)
    assert torch.equal(soft, torch.tensor([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]]))


def settings(mix: str, *more: str) -> Config:
    chosen = [f"data.mix={mix}", "data.erase=cutout", "data.augment=true", *more]
    return load_config(None, chosen)


def images_of(config: Config, size: int) -> dict[int, tuple[Tensor, Tensor]]:
    """Sample to image and label of one step, over all workers."""
    dataset = load_dataset(config.data)
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for rank in range(size):
        for own in plan_of(config, dataset, CPU, rank, size).step(3):
            for place, sample in enumerate(own.noise._ids.tolist()):
                found[sample] = own.images[place], own.labels[place]
    return found


@pytest.mark.parametrize("mix", MIXES)
def test_a_sample_is_mixed_alike_on_any_number_of_workers_and_passes(mix: str) -> None:
    alone = images_of(settings(mix), 1)
    for shared in (
        images_of(settings(mix), 3),
        images_of(settings(mix, "train.backward_passes_per_step=2"), 2),
    ):
        assert shared.keys() == alone.keys() and len(alone) == 64
        for sample, (image, label) in alone.items():
            assert torch.equal(image, shared[sample][0])
            assert torch.equal(label, shared[sample][1])
    labels = torch.stack([label for _, label in alone.values()])
    assert torch.allclose(labels.sum(dim=1), torch.ones(64))
    assert ((labels > 0).sum(dim=1) == 2).sum() > 40


@pytest.mark.parametrize("name", ["adversarial", "trades", "score"])
@pytest.mark.parametrize("attack", ["pgd", "fgsm_rs", "apgd"])
def test_one_class_in_a_mixed_label_is_that_class(name: str, attack: str) -> None:
    """Objectives and attacks by soft labels of one class equal those by the class."""
    config = load_config(
        None,
        [f"objective.name={name}", "objective.label_smoothing=0.1",
         f"attack.name={attack}", "attack.num_steps=3", "data.mix=mixup"],
    )  # fmt: skip
    model = network()
    images, labels, draws = batch(8)
    soft = F.one_hot(labels, 4).to(images.dtype)
    made = build_attack(config.attack)
    hard_images = made(model, images, labels, draws)
    assert torch.allclose(hard_images, made(model, images, soft, draws))
    objective = build_objective(config.objective)
    hard_loss = objective(model, images, hard_images, labels).loss
    assert torch.allclose(hard_loss, objective(model, images, hard_images, soft).loss)
    mean = torch.lerp(soft, soft.roll(1, 0), 0.3)
    if name == "adversarial":
        by_hand = 0.7 * objective(model, images, hard_images, labels).loss
        by_hand = (
            by_hand + 0.3 * objective(model, images, hard_images, labels.roll(1)).loss
        )
        assert torch.allclose(objective(model, images, hard_images, mean).loss, by_hand)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["objective.name=mart"], "objective.name mart wants one"),
        (["attack.loss=margin"], "the attack wants one"),
        (["attack.target=random"], "the attack wants one"),
        (["data.mix=cutmax"], r"unknown 'cutmax' \(did you mean 'cutmix'\?\)"),
        (["data.erase=cutouts"], r"unknown 'cutouts' \(did you mean 'cutout'\?\)"),
    ],
)
def test_what_wants_one_label_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(None, ["data.mix=cutmix", *settings])


def test_an_empty_share_of_a_batch_is_mixed_too() -> None:
    config = settings("cutmix", "train.batch_norm=synchronised", "train.batch_size=2",
                      "model.normalization=batch")  # fmt: skip
    plan = plan_of(config, load_dataset(config.data), CPU, 2, 3)
    own: Batch = next(iter(plan.step(0)))
    assert own.images.shape[0] == 0 and own.labels.shape == (0, 10)
    assert math.isclose(own.share, 0.0)
