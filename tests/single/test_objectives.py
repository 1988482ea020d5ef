"""Objectives against their papers' equations, and the laws that all keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dathvd.config import ObjectiveConfig
from dathvd.objectives import (
    OBJECTIVES,
    Adversarial,
    Objective,
    WeightPerturbed,
    build_objective,
)
from dathvd.objectives.ikl import soft_cross_entropy, weighted_mse
from dathvd.objectives.mart import boosted_cross_entropy
from dathvd.objectives.objective import kl_divergence
from dathvd.objectives.perturbed import perturbation
from tests.single.small_models import batch, network, nothing_changes

# contrastive has no classes: see test_objectives_contrastive.py
NAMES = sorted(set(OBJECTIVES) - {"contrastive"})


def case(size: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    images, labels, _ = batch(size)
    torch.manual_seed(2)
    return images, (images + 0.1 * torch.randn_like(images)).clamp(0, 1), labels


HELPER = network(seed=7).eval().requires_grad_(False)


def build(name: Any, helper: nn.Module = HELPER, **changes: Any) -> Objective:
    if name == "hat":
        changes["helper"] = "a run"
    config = ObjectiveConfig(name=name, **changes)
    return build_objective(config, helper_network=helper)


def gradients(loss: Tensor, model: nn.Module) -> Tensor:
    parts = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return torch.cat([part.flatten() for part in parts if part is not None])


EQUATIONS = [
    "adversarial", "rotation", "plain", "trades", "mart", "score", "ikl",
]  # fmt: skip
"""The objectives whose equation is written out below."""


def written_out(
    name: str, clean: Tensor, attacked: Tensor, labels: Tensor, beta: float
) -> Tensor:
    """The papers' equations, sample by sample and class by class."""
    p, q = clean.softmax(1), attacked.softmax(1)
    losses = []
    for i, label in enumerate(labels.tolist()):
        divergence = sum(
            p[i, k] * (p[i, k].log() - q[i, k].log()) for k in range(p.shape[1])
        )
        if name == "trades":
            losses.append(-p[i, label].log() + beta * divergence)
        elif name == "mart":
            rival = max(q[i, k] for k in range(q.shape[1]) if k != label)
            boosted = -q[i, label].log() - (1 - rival).log()
            losses.append(boosted + beta * divergence * (1 - p[i, label]))
        elif name == "score":
            goal = torch.eye(p.shape[1], dtype=p.dtype)[label]
            far, moved = ((p[i] - goal) ** 2).sum(), ((q[i] - p[i]) ** 2).sum()
            losses.append(far + beta * moved)
        elif name == "ikl":  # before the first epoch's end
            change, mean = clean[i] - attacked[i], 1 / p.shape[1]
            apart = sum((a - b) ** 2 for a in change for b in change)
            soft = -(p[i].detach() * q[i].log()).sum()
            wmse = mean**2 * apart / 4
            losses.append(-p[i, label].log() + beta * wmse + 4 * soft)
        elif name in ("adversarial", "rotation"):
            losses.append(-beta * p[i, label].log() - q[i, label].log())
        else:
            losses.append(-p[i, label].log())
    return torch.stack(losses)


@pytest.mark.parametrize("name", EQUATIONS)
def test_loss_and_gradient_are_the_papers(name: str) -> None:
    images, adversarial, labels = case()
    model = network().eval()
    terms = build(name, beta=3.5, clean_weight=3.5)(model, images, adversarial, labels)
    expected = written_out(name, model(images), model(adversarial), labels, 3.5).mean()
    torch.testing.assert_close(terms.loss, expected)
    torch.testing.assert_close(gradients(terms.loss, model), gradients(expected, model))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gamma", [0.0, 0.01])
def test_weights_make_the_mean_over_all_ranks(name: str, gamma: float) -> None:
    # ranks hold 5, 2 and 1 of 8 samples; the last two are padded with rubbish
    images, adversarial, labels = case(8)
    model = network(batch_norm=False)
    objective = build(name)
    whole = gradients(objective(model, images, adversarial, labels).loss, model)
    mean = torch.zeros_like(whole)
    for start, count, padding in ((0, 5, 0), (5, 2, 3), (7, 1, 2)):
        own = torch.cat(
            [torch.arange(start, start + count), torch.zeros(padding).long()]
        )
        weights = torch.full((count + padding,), 3 * (count + padding) / 8).double()
        weights[count:] = 0.0
        terms = objective(model, images[own], adversarial[own], labels[own], weights)
        mean += gradients(terms.loss, model) / 3
    torch.testing.assert_close(mean, whole)
    if gamma:
        weights = torch.ones(8, dtype=torch.float64)
        wrapped = WeightPerturbed(objective, gamma=gamma)
        torch.testing.assert_close(
            wrapped(model, images, adversarial, labels, weights).loss,
            wrapped(model, images, adversarial, labels).loss,
        )


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_model(name: str) -> None:
    images, adversarial, labels = case()
    model = network().eval()
    terms = build(name)(model, images, adversarial, labels)
    found = {"clean": terms.clean_logits, "adversarial": terms.adversarial_logits}
    expected = {"clean": model(images), "adversarial": model(adversarial)}
    if name in EQUATIONS:
        unused = {"adversarial"} if name == "plain" else set()
        assert {key for key, logits in found.items() if logits is None} == unused
    assert any(logits is not None for logits in found.values())
    for key, logits in found.items():
        if logits is not None:
            torch.testing.assert_close(logits, expected[key])


def test_scores_smoothed_label_is_a_mixed_one_and_its_loss_a_distance() -> None:
    """The squared error is not linear in the label, so that smoothing is no mixture."""
    images, adversarial, labels = case()
    model = network().eval()
    smooth = build("score", label_smoothing=0.2)
    uniform = torch.full_like(model(images), 1 / 4)
    soft = 0.8 * F.one_hot(labels, 4).to(images.dtype) + 0.2 * uniform
    torch.testing.assert_close(
        smooth(model, images, adversarial, labels).loss,
        build("score")(model, images, adversarial, soft).loss,
    )
    still = build("score", beta=0.0)(model, images, adversarial, labels).loss
    same = build("score", beta=9.0)(model, images, images, labels).loss
    torch.testing.assert_close(still, same)  # nothing has moved


@pytest.mark.parametrize("gamma", [0.0, 0.01])
def test_unused_clean_images_take_no_forward_pass(gamma: float) -> None:
    images, adversarial, labels = case()
    model = network().eval()
    objective = build("adversarial", clean_weight=0.0, weight_perturbation=gamma)
    calls: list[Any] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    terms = objective(model, images, adversarial, labels)
    assert terms.clean_logits is None and len(calls) == (2 if gamma else 1)


@pytest.mark.parametrize("name", [name for name in EQUATIONS if name != "score"])
def test_label_smoothing_is_the_mixture_with_the_uniform_law(name: str) -> None:
    images, adversarial, labels = case()
    model = network().eval()
    smooth = build(name, label_smoothing=0.2)(model, images, adversarial, labels).loss
    sharp = build(name)(model, images, adversarial, labels).loss
    per_class = {
        "plain": (1.0, 0.0),
        "adversarial": (1.0, 1.0),
        "rotation": (1.0, 1.0),
        "trades": (1.0, 0.0),
        "mart": (0.0, 1.0),
        "ikl": (1.0, 0.0),
    }[name]
    change = torch.zeros((), dtype=torch.float64)
    for weight, inputs in zip(per_class, (images, adversarial)):
        logits = model(inputs)
        uniform = -logits.log_softmax(1).mean(1)
        change += (
            weight
            * 0.2
            * (uniform - F.cross_entropy(logits, labels, reduction="none")).mean()
        )
    torch.testing.assert_close(smooth - sharp, change)


def test_kl_has_the_gradient_of_its_two_parts() -> None:
    """Theorem 1 of Cui et al.: shares are the sample's own, the other side is fixed."""
    torch.manual_seed(0)
    one, other = (torch.randn(5, 4).double().requires_grad_() for _ in range(2))
    whole = torch.autograd.grad(kl_divergence(one, other).sum(), [one, other])
    shares = one.detach().softmax(dim=1)
    parts = weighted_mse(one, other.detach(), shares) + soft_cross_entropy(one, other)
    for found, expected in zip(torch.autograd.grad(parts.sum(), [one, other]), whole):
        torch.testing.assert_close(found, expected)


def test_squared_errors_are_weighted_by_the_class_in_the_epoch_before() -> None:
    images, adversarial, labels = case()
    model = network().eval()
    objective = build("ikl", options={"class_temperature": 2.0})
    memory = objective.class_means
    assert memory is not None
    clean, attacked = model(images).detach(), model(adversarial).detach()
    likely = (clean / 2).softmax(dim=1)
    memory.see(labels[:2], clean[:2])
    memory.forget()  # a skipped step
    for part in (slice(0, 4), slice(4, 6)):
        memory.see(labels[part], clean[part])
        memory.keep()
    memory.end_epoch(4, lambda sums: 2 * sums)  # two workers with equal images
    assert memory.sums is None
    terms = objective(model, images, adversarial, labels)
    expected = torch.zeros((), dtype=torch.float64)
    for i, label in enumerate(labels.tolist()):
        mean, change = likely[labels == label].mean(dim=0), clean[i] - attacked[i]
        apart = (change[:, None] - change[None, :]) ** 2
        expected += (mean[:, None] * mean[None, :] * apart).sum() / 4 / len(labels)
    without = build("ikl", beta=0.0)(model, images, adversarial, labels).loss
    torch.testing.assert_close((terms.loss - without).detach(), 6 * expected)
    # in the next epoch one class is seen: the others keep their means
    seen = labels == labels[0]
    before, memory.temperature = memory.of(labels, clean), 1.0
    memory.see(labels[seen], attacked[seen])
    memory.keep()
    memory.end_epoch(4, lambda sums: sums)
    after = memory.of(labels, clean)
    torch.testing.assert_close(after[~seen], before[~seen])
    mean = attacked[seen].softmax(dim=1).mean(dim=0)
    torch.testing.assert_close(after[seen], mean.expand(int(seen.sum()), -1))
    mixed = memory.of(F.one_hot(labels, 4).double(), clean)
    torch.testing.assert_close(mixed, after)


def test_a_helper_says_what_lies_beyond_the_attack() -> None:
    images, adversarial, labels = case()
    model = network().eval()
    options = {"helper_weight": 0.7, "reach": 3.0}
    found = build("hat", options=options)(model, images, adversarial, labels).loss
    trades = build("trades")(model, images, adversarial, labels).loss
    far = images + 3 * (adversarial - images)
    told = HELPER(adversarial).argmax(dim=1)
    assert not torch.equal(told, labels) and bool((far < 0).any())
    expected = trades + 0.7 * F.cross_entropy(model(far), told)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, model), gradients(expected, model))
    with pytest.raises(ValueError, match="hat needs a naturally trained network"):
        ObjectiveConfig(name="hat")


@pytest.mark.parametrize("name", ["trades", "mart"])
def test_divergence_is_zero_without_an_attack(name: str) -> None:
    images, _, labels = case()
    model = network().eval()
    losses = [
        build(name, beta=beta)(model, images, images, labels).loss.item()
        for beta in (0.0, 100.0)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_extreme_logits_stay_finite(name: str) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    model = nn.Identity()
    labels = torch.tensor([1, 1])
    loss = build(name, nn.Identity())(model, logits, -logits, labels).loss
    loss.backward()
    assert bool(loss.isfinite()) and logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def test_boosted_cross_entropy_has_its_closed_form() -> None:
    logits = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]]).log()
    found = boosted_cross_entropy(logits, torch.tensor([0, 0]), 0.0)
    expected = -torch.tensor([0.5 * 0.7, 0.1 * 0.4]).log()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_perturbed_weights_leave_the_model_alone(name: str) -> None:
    images, adversarial, labels = case()
    model = network(batch_norm=False).train()
    objective = build(name, weight_perturbation=0.05)
    with nothing_changes(model, images, adversarial, labels):
        objective(model, images, adversarial, labels)


def test_perturbed_weights_are_the_papers() -> None:
    # eq. 8-11: the gradient at w + v, with v along the gradient at w, per tensor
    images, adversarial, labels = case()
    model = network().train()
    plain = Adversarial()
    terms = WeightPerturbed(plain, gamma=0.05)(model, images, adversarial, labels)
    found = gradients(terms.loss, model)
    other = network().train()
    first = plain(other, images, adversarial, labels).loss
    ascent = torch.autograd.grad(first, list(other.parameters()))
    with torch.no_grad():
        for weight, gradient in zip(other.parameters(), ascent):
            if weight.dim() > 1:
                scale: Tensor = 0.05 * weight.norm() / gradient.norm()
                weight.add_(scale * gradient)
    again = plain(other, images, adversarial, labels).loss
    torch.testing.assert_close(terms.loss, again)
    torch.testing.assert_close(found, gradients(again, other))
    assert again.item() > first.item()


def test_perturbed_training_updates_statistics_once() -> None:
    # the ascent's pass counts nothing: as many batches as without it
    images, adversarial, labels = case()
    counts = []
    for gamma in (0.0, 0.01):
        model = network().train()
        build("trades", weight_perturbation=gamma)(model, images, adversarial, labels)
        counts.append(int(model.get_buffer("1.num_batches_tracked")))
    assert counts[0] == counts[1] > 0


def test_hooks_fire_once_for_each_weight() -> None:
    images, adversarial, labels = case()
    model = network().train()
    fired: list[str] = []
    for name, weight in model.named_parameters():
        weight.register_post_accumulate_grad_hook(
            lambda _, name=name: fired.append(name)
        )
    objective = build("adversarial", weight_perturbation=0.01)
    terms = objective(model, images, adversarial, labels)
    assert fired == []
    terms.loss.backward()
    assert sorted(fired) == sorted(name for name, _ in model.named_parameters())


def test_perturbation_has_the_asked_length_and_no_direction_without_gradient() -> None:
    torch.manual_seed(0)
    weight, gradient = torch.randn(4, 3), 1e-12 * torch.randn(4, 3)
    v = perturbation(weight, gradient, 0.01)
    assert float(v.norm() / weight.norm()) == pytest.approx(0.01)
    assert (
        float(F.cosine_similarity(v.flatten(), 1e12 * gradient.flatten(), dim=0))
        > 0.999
    )
    assert not bool(perturbation(weight, torch.zeros(4, 3), 0.01).any())


def test_clean_and_attacked_images_are_normalised_apart() -> None:
    images, adversarial, labels = case()
    adversarial = adversarial * 0.2
    model = network().train()
    terms = build("adversarial")(model, images, adversarial, labels)
    alone = network().train()(adversarial)
    assert terms.adversarial_logits is not None
    torch.testing.assert_close(terms.adversarial_logits, alone)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_has_no_loss(name: str) -> None:
    images, adversarial, labels = case(0)
    model = network(batch_norm=False)
    loss = build(name)(model, images, adversarial, labels).loss
    assert loss.item() == 0.0
    assert not bool(gradients(loss, model).any())
