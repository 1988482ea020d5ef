"""Standard AutoAttack: exact on a linear model, pure, and clear where it cannot be."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dathvd.errors import UserError
from dathvd.evaluation.autoattack import AutoAttack
from dathvd.evaluation.autoattack.doubts import doubts_of
from dathvd.noise import SampleNoise
from tests.single.small_models import lengths, nothing_changes

RADII = {"linf": 0.05, "l1": 0.6}
SHAPE = (1, 6, 6)


def linear(classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, classes))


def most(difference: Tensor, flat: Tensor, norm: str) -> Tensor:
    """How far a change within the ball and the box lowers ``difference @ pixels``: in
    linf each pixel for itself, in L1 those of the largest weights first."""
    room = torch.where(difference > 0, flat[:, None], 1 - flat[:, None])
    weight, epsilon = difference.abs(), RADII[norm]
    if norm == "linf":
        return (weight * room.clamp_max(epsilon)).sum(dim=2)
    weight, order = weight.sort(dim=2, descending=True)
    room = room.gather(2, order)
    left = epsilon - (room.cumsum(dim=2) - room)
    return (weight * torch.minimum(room, left.clamp_min(0.0))).sum(dim=2)


def exact_margins(
    model: nn.Module, images: Tensor, labels: Tensor, norm: str
) -> Tensor:
    """The smallest margin within the ball and the box."""
    layer = model[1]  # type: ignore[index]
    difference = layer.weight[labels][:, None] - layer.weight[None]
    logits = model(images)
    own = logits.gather(1, labels[:, None])
    margins = own - logits - most(difference, images.flatten(1), norm)
    nearest: Tensor = margins.scatter(1, labels[:, None], torch.inf).amin(dim=1)
    return nearest.detach()


@pytest.mark.slow
@pytest.mark.parametrize("norm", RADII)
def test_it_finds_exactly_what_there_is_in_a_linear_model(norm: str) -> None:
    model = linear()
    images = torch.rand(24, *SHAPE, generator=torch.Generator().manual_seed(1))
    images[:, :, 0] = 0.0  # some pixels lie on a face of the box
    labels = model(images).argmax(dim=1)
    labels[0] = (labels[0] + 1) % 5
    margins = exact_margins(model, images, labels, norm)
    kept = margins.abs() > 1e-4
    images, labels, margins = images[kept], labels[kept], margins[kept]
    assert 4 < (margins > 0).sum() < len(margins) - 4
    noise = SampleNoise(0, torch.arange(len(images)))
    attack = AutoAttack(norm, RADII[norm], num_classes=5)
    generator = torch.random.get_rng_state()
    with nothing_changes(model, images):
        points, correct = attack.worst_case(model, images, labels, noise)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert torch.equal(correct, margins > 0)
    assert lengths(points - images, norm).max() <= RADII[norm] + 1e-6
    assert 0 <= points.min() and points.max() <= 1
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda logits: logits + torch.rand_like(logits), "outputs are random"),
        (lambda logits: logits.softmax(dim=1), "probabilities, not logits"),
        (lambda logits: logits.round(), "gradient of zero"),
    ],
)
def test_what_misleads_its_attacks_is_told(
    change: Callable[[Tensor], Tensor], warning: str
) -> None:
    model = linear()
    with pytest.warns(UserWarning, match=warning):
        doubts_of(lambda images: change(model(images)), torch.rand(4, *SHAPE))


def test_nothing_is_told_of_a_network_that_is_sound() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        doubts_of(linear(), torch.rand(4, *SHAPE))


def test_too_few_classes_are_refused() -> None:
    with pytest.raises(UserError, match="needs 4 classes, this task has 3"):
        AutoAttack("linf", 0.05, num_classes=3)
