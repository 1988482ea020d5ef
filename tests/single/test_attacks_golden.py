"""Attacks against torchattacks and foolbox: the same start gives the same images."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dathvd.attacks import (
    BALLS,
    PGD,
    Ball,
    L2Ball,
    LinfBall,
    build_attack,
    kl_divergence,
    margin,
)
from dathvd.config import AttackConfig
from dathvd.noise import SampleNoise
from dathvd.torchvision_shim import torchvision
from tests.single.small_models import batch, network

assert torchvision is sys.modules["torchvision"]  # both libraries import it
torchattacks = pytest.importorskip("torchattacks")
foolbox = pytest.importorskip("foolbox")

EPSILON, STEP, STEPS = 0.06, 0.015, 8


def assert_same(ours: Tensor, theirs: Tensor, images: Tensor) -> None:
    assert float((ours - images).abs().max()) > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


class TorchattacksLinf(LinfBall):
    """Draws the start as torchattacks does after the same seed."""

    def uniform(self, images: Tensor, noise: SampleNoise, stream: int) -> Tensor:
        torch.manual_seed(7)
        return torch.empty_like(images).uniform_(-self.epsilon, self.epsilon)


class TorchattacksL2(L2Ball):
    """Draws the start as torchattacks does after the same seed."""

    def uniform(self, images: Tensor, noise: SampleNoise, stream: int) -> Tensor:
        torch.manual_seed(7)
        delta = torch.empty_like(images).normal_()
        length: Tensor = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        radius = torch.zeros_like(length).uniform_(0, 1)
        start: Tensor = delta * (radius / length * self.epsilon)
        return start


class AfterNormalDraw(LinfBall):
    """Draws the start as torchattacks' FFGSM does: after a normal draw for nothing."""

    def uniform(self, images: Tensor, noise: SampleNoise, stream: int) -> Tensor:
        torch.manual_seed(7)
        return torch.randn_like(images).uniform_(-self.epsilon, self.epsilon)


def run_torchattacks(name: str, images: Tensor, labels: Tensor, **options: Any) -> Any:
    target = options.pop("target", None)
    attack = getattr(torchattacks, name)(network().eval(), **options)
    if target is not None:
        attack.set_mode_targeted_by_label(quiet=True)
        labels = target
    torch.manual_seed(7)
    return attack(images, labels)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    ("name", "ball"),
    [("PGD", TorchattacksLinf(EPSILON)), ("PGDL2", TorchattacksL2(6 * EPSILON))],
)
def test_pgd_with_random_start(name: str, ball: Ball, targeted: bool) -> None:
    images, labels, noise = batch(12)
    goal = (labels + 1) % 4
    size = ball.epsilon / 4
    attack = PGD(
        ball,
        step_size=size,
        num_steps=STEPS,
        target=(lambda *_: goal) if targeted else None,
    )
    theirs = run_torchattacks(
        name,
        images,
        labels,
        eps=ball.epsilon,
        alpha=size,
        steps=STEPS,
        target=goal if targeted else None,
    )
    assert_same(attack(network(), images, labels, noise), theirs, images)


def test_fgsm() -> None:
    images, labels, noise = batch(12)
    attack = build_attack(AttackConfig(name="fgsm", epsilon=EPSILON))
    theirs = run_torchattacks("FGSM", images, labels, eps=EPSILON)
    assert_same(attack(network(), images, labels, noise), theirs, images)


def test_fgsm_with_random_start() -> None:
    images, labels, noise = batch(12)
    attack = build_attack(AttackConfig(name="fgsm_rs", epsilon=EPSILON))
    assert isinstance(attack, PGD)
    attack.ball = AfterNormalDraw(EPSILON)
    theirs = run_torchattacks(
        "FFGSM", images, labels, eps=EPSILON, alpha=1.25 * EPSILON
    )
    assert_same(attack(network(), images, labels, noise), theirs, images)


def test_momentum() -> None:
    images, labels, noise = batch(12)
    attack = PGD(
        LinfBall(EPSILON),
        step_size=STEP,
        num_steps=STEPS,
        random_start=False,
        momentum=0.9,
    )
    theirs = run_torchattacks(
        "MIFGSM", images, labels, eps=EPSILON, alpha=STEP, steps=STEPS, decay=0.9
    )
    assert_same(attack(network(), images, labels, noise), theirs, images)


class TorchNoise(SampleNoise):
    """Normal draws from torch's own generator after a seed."""

    def normal(self, shape: torch.Size | tuple[int, ...], stream: int = 0) -> Tensor:
        torch.manual_seed(7)
        return torch.randn(shape, dtype=torch.float64)


def test_trades_attack() -> None:
    images, labels, _ = batch(12)
    attack = PGD(
        LinfBall(EPSILON),
        step_size=STEP,
        num_steps=STEPS,
        start_std=0.001,
        loss=kl_divergence,
    )
    theirs = run_torchattacks(
        "TPGD", images, labels, eps=EPSILON, alpha=STEP, steps=STEPS
    )
    noise = TorchNoise(0, torch.arange(12))
    assert_same(attack(network(), images, labels, noise), theirs, images)


def test_margin_is_carlini_and_wagners() -> None:
    torch.manual_seed(0)
    # theirs masks by multiplication, right for positive logits only
    logits, labels = torch.rand(50, 7) + 0.1, torch.randint(7, (50,))
    theirs = torchattacks.CW(nn.Identity(), kappa=1e9).f(logits, labels)
    torch.testing.assert_close(margin(logits, labels, None), -theirs)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_against_foolbox(norm: str, loss: str) -> None:
    images, labels, noise = batch(12)
    base = {
        "linf": foolbox.attacks.LinfProjectedGradientDescentAttack,
        "l2": foolbox.attacks.L2ProjectedGradientDescentAttack,
    }[norm]

    class Theirs(base):  # type: ignore[misc, valid-type]
        """foolbox's attack, with Carlini and Wagner's loss on request."""

        def get_loss_fn(self, model: Any, labels: Any) -> Any:
            if loss == "cross_entropy":
                return super().get_loss_fn(model, labels)

            def value(inputs: Any) -> Any:
                logits = model(inputs)
                own = logits[range(len(logits)), labels]
                others = logits - logits.onehot_like(labels, value=1e9)
                return (others.max(axis=-1) - own).sum()

            return value

    epsilon = EPSILON if norm == "linf" else 6 * EPSILON
    theirs = Theirs(abs_stepsize=epsilon / 4, steps=STEPS, random_start=False)
    bounded = foolbox.PyTorchModel(network().eval(), bounds=(0, 1))
    _, expected, _ = theirs(bounded, images, labels, epsilons=epsilon)
    attack = build_attack(
        AttackConfig(
            norm=norm,  # type: ignore[arg-type]
            loss=loss,  # type: ignore[arg-type]
            epsilon=epsilon,
            step_size=epsilon / 4,
            num_steps=STEPS,
            random_start=False,
        )
    )
    model = network()
    found = attack(model, images, labels, noise)
    assert_same(found, expected, images)


@pytest.mark.parametrize("norm", sorted(BALLS))
def test_start_is_uniform_in_the_ball(norm: str) -> None:
    # in n dimensions the share of a ball within radius r is r^n
    count, shape = 20_000, (1, 1, 3)
    images = torch.zeros(count, *shape)
    noise = SampleNoise(0, torch.arange(count))
    draw = BALLS[norm](2.0).uniform(images, noise, 100).flatten(1)
    assert float(draw.mean(dim=0).abs().max()) < 0.05
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    radius = torch.linalg.vector_norm(draw, ord=order, dim=1) / 2
    for share in (0.25, 0.5, 0.75):
        inside = float((radius <= share ** (1 / 3)).float().mean())
        assert inside == pytest.approx(share, abs=0.02)
