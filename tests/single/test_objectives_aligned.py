"""GradAlign against its equation, and its laws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dathvd.config import load_config
from dathvd.data import load_dataset
from dathvd.errors import UserError
from dathvd.noise import SampleNoise
from dathvd.objectives import Adversarial, GradAligned
from dathvd.training.batches import plan_of
from dathvd.training.build import build_training, first_model
from tests.single.small_models import batch, network

EPSILON = 0.2


def aligned(weight: float, noise: SampleNoise) -> GradAligned:
    objective = GradAligned(Adversarial(), weight=weight, epsilon=EPSILON)
    objective.begin(noise)
    return objective


def gradient_at(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    inputs = image.detach()[None].requires_grad_()
    loss = nn.functional.cross_entropy(model(inputs), label[None])
    return torch.autograd.grad(loss, inputs)[0].flatten()


def test_it_is_one_less_the_cosine_of_both_gradients() -> None:
    images, labels, noise = batch()
    model = network().eval()
    plain = Adversarial()(model, images, images, labels).loss
    found = aligned(0.7, noise)(model, images, images, labels).loss
    nearby = images + EPSILON * (2 * noise.uniform(images.shape, 140).double() - 1)
    turned = []
    for x, moved, y in zip(images, nearby, labels, strict=True):
        here, there = gradient_at(model, x, y), gradient_at(model, moved, y)
        turned.append(1 - here @ there / here.norm() / there.norm())
    expected = plain + 0.7 * torch.stack(turned).mean()
    torch.testing.assert_close(found, expected)
    assert (expected - plain).item() > 1e-3


def test_its_gradient_is_that_of_the_second_gradient_alone() -> None:
    """By differences of the weights: the gradient at the image is held fixed."""
    images, labels, noise = batch(2)
    model = network(batch_norm=False).eval()
    weight = model.get_parameter("4.bias")
    loss = aligned(1.0, noise)(model, images, images, labels).loss
    loss = loss - Adversarial()(model, images, images, labels).loss
    (found,) = torch.autograd.grad(loss, weight)
    fixed = [gradient_at(model, x, y) for x, y in zip(images, labels, strict=True)]
    nearby = images + EPSILON * (2 * noise.uniform(images.shape, 140).double() - 1)

    def value() -> float:
        turned = 0.0
        for here, x, y in zip(fixed, nearby, labels, strict=True):
            there = gradient_at(model, x, y)
            turned += float(1 - here @ there / here.norm() / there.norm())
        return turned / 2

    for place in range(4):
        ends = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                weight[place] += step
            ends.append(value())
        with torch.no_grad():
            weight[place] += 1e-5
        expected = (ends[0] - ends[1]) / 2e-5
        assert float(found[place]) == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_weights_make_the_mean_over_all_ranks() -> None:
    images, labels, noise = batch(8)
    model = network(batch_norm=False)

    def gradients(rows: Tensor, weights: Tensor | None) -> Tensor:
        objective = aligned(0.5, noise.select(rows))
        terms = objective(model, images[rows], images[rows], labels[rows], weights)
        parts = torch.autograd.grad(terms.loss, list(model.parameters()))
        return torch.cat([part.flatten() for part in parts])

    whole = gradients(torch.arange(8), None)
    mean = torch.zeros_like(whole)
    for rows in torch.arange(8).split([5, 3]):
        weights = torch.full((len(rows),), 2 * len(rows) / 8).double()
        mean += gradients(rows, weights) / 2
    torch.testing.assert_close(mean, whole)


def test_a_step_is_taken_with_it() -> None:
    overrides = ["data.name=synthetic", "data.num_train=8", "data.num_test=1",
                 "data.image_size=8", "model.name=small_resnet", "model.width=32",
                 "attack.name=fgsm_rs", "train.batch_size=4"]  # fmt: skip
    moved = []
    for weight in (0.0, 5.0):
        config = load_config(None, [*overrides, f"objective.grad_align={weight}"])
        dataset = load_dataset(config.data)
        device = torch.device("cpu")
        trainer = build_training(config, first_model(config, dataset), device)
        plan = plan_of(config, dataset, device, 0, 1)
        trainer.step(list(plan.step(0)), 0.1)
        moved.append(nn.utils.parameters_to_vector(trainer.model.parameters()))
    assert bool(moved[1].isfinite().all()) and not torch.equal(*moved)


@pytest.mark.parametrize(
    "override",
    [
        "attack.norm=l2",
        "attack.balls={linf: 0.1, l2: 1}",
        "train.batch_norm=synchronised",
        "train.activation_checkpointing=true",
    ],
)
def test_what_has_no_second_derivative_is_refused(override: str) -> None:
    with pytest.raises(UserError, match="objective.grad_align: .* set it to 0"):
        load_config(None, ["objective.grad_align=0.2", override])
