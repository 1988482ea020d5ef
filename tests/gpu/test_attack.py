"""Attacks on a GPU: graphs give the launched kernels' bits, twins the model's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dathvd.attacks import build_attack
from dathvd.attacks.forward import Forward
from dathvd.attacks.network import attacked
from dathvd.attacks.step_graph import StepGraph
from dathvd.attacks.twin import Twin, twin_of
from dathvd.config import AttackConfig, ModelConfig
from dathvd.models import build_model
from dathvd.noise import SampleNoise
from tests.gpu.steps import CUDA

ATTACKS: dict[str, dict[str, Any]] = {
    "pgd": {},
    "bf16": {"precision": "bf16"},
    "fgsm_rs": {"name": "fgsm_rs"},
    "l2, momentum": {"norm": "l2", "epsilon": 0.5, "momentum": 0.9},
    "cosine, early stop": {"step_schedule": "cosine", "early_stop": True},
    "kl from a normal start": {"loss": "kl", "start": "gaussian"},
    "towards a class": {"loss": "margin", "target": "least_likely"},
    "restarts": {"restarts": 2},
}


def network(name: str = "small_resnet", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = ModelConfig(name=name, width=32, normalization="batch")
    model = build_model(config, (3, 32, 32), 10).to(CUDA).train()
    for _ in range(3):
        model(torch.rand(32, 3, 32, 32, device=CUDA))
    return model


def batch(size: int, seed: int = 1) -> tuple[Tensor, Tensor, SampleNoise]:
    torch.manual_seed(seed)
    images = torch.rand(size, 3, 32, 32, device=CUDA)
    labels = torch.randint(10, (size,), device=CUDA)
    return images, labels, SampleNoise(seed, torch.arange(size, device=CUDA))


def move(model: nn.Module) -> None:
    """An update: weights and statistics are others."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    model.train()(torch.rand(32, 3, 32, 32, device=CUDA))


def graphs(model: nn.Module, attack: Any) -> list[StepGraph]:
    twin = twin_of(model.eval(), attack.forward)
    assert isinstance(twin, Twin)
    return [graph for graph in twin.graphs.values() if graph is not None]


@pytest.mark.parametrize("name", ATTACKS)
def test_graph_gives_the_bits_of_launched_kernels(name: str) -> None:
    model = network()
    options: dict[str, Any] = {"epsilon": 8 / 255, "step_size": 2 / 255}
    options["num_steps"] = 4
    options |= ATTACKS[name]
    launched = build_attack(AttackConfig(cuda_graph=False, **options))
    replayed = build_attack(AttackConfig(**options))
    for round_ in range(4):
        images, labels, noise = batch(24, seed=round_)
        plain = launched(model, images, labels, noise)
        assert torch.equal(replayed(model, images, labels, noise), plain)
        assert not torch.equal(plain, images)
        move(model)
    assert len(graphs(model, replayed)) == 1


def test_odd_batches_are_launched_as_usual() -> None:
    model = network()
    attack = build_attack(AttackConfig(epsilon=8 / 255))
    plain = build_attack(AttackConfig(epsilon=8 / 255, cuda_graph=False))
    for size in (24, 24, 7, 24, 9):
        images, labels, noise = batch(size, seed=size)
        expected = plain(model, images, labels, noise)
        assert torch.equal(attack(model, images, labels, noise), expected)
    assert len(graphs(model, attack)) == 1


def test_weights_that_moved_elsewhere_are_noticed() -> None:
    model = network()
    attack = build_attack(AttackConfig(epsilon=8 / 255))
    plain = build_attack(AttackConfig(epsilon=8 / 255, cuda_graph=False))
    images, labels, noise = batch(24)
    for _ in range(2):
        attack(model, images, labels, noise)
    with torch.no_grad():
        for weight in model.parameters():
            weight.data = weight.data.clone().mul_(1.1)
    expected = plain(model, images, labels, noise)
    assert torch.equal(attack(model, images, labels, noise), expected)


def test_between_is_called_before_each_replay() -> None:
    model, calls = network(), []
    attack = build_attack(AttackConfig(epsilon=8 / 255, num_steps=5))
    attack.between = lambda: calls.append(0)
    images, labels, noise = batch(16)
    for _ in range(3):
        attack(model, images, labels, noise)
    assert len(calls) == 15


@pytest.mark.parametrize("name", ["small_resnet", "preact_resnet18", "resnet18_small"])
@pytest.mark.parametrize(
    "forward",
    [
        Forward(channels_last=True),
        Forward(fold_batch_norm=True),
        Forward(channels_last=True, fold_batch_norm=True, winograd=True),
    ],
    ids=str,
)
def test_gradient_of_the_twin_is_the_models(name: str, forward: Forward) -> None:
    model = network(name).double()
    images, labels, _ = batch(4)
    images = images.double()

    def gradient(forward: Forward) -> Tensor:
        with attacked(model, forward) as run:
            inputs = images.clone().requires_grad_()
            loss = F.cross_entropy(run(inputs), labels, reduction="sum")
            (found,) = torch.autograd.grad(loss, inputs)
        return found

    plain = gradient(Forward())
    torch.testing.assert_close(gradient(forward), plain, rtol=1e-8, atol=1e-11)
    cpu = model.cpu()
    with attacked(cpu, Forward()) as run:
        inputs = images.cpu().requires_grad_()
        loss = F.cross_entropy(run(inputs), labels.cpu(), reduction="sum")
        (expected,) = torch.autograd.grad(loss, inputs)
    torch.testing.assert_close(plain.cpu(), expected, rtol=1e-8, atol=1e-11)


def test_bf16_attacks_as_strongly() -> None:
    model = network("preact_resnet18")
    images, labels, noise = batch(64)

    def loss(**options: Any) -> float:
        config = AttackConfig(epsilon=8 / 255, step_size=2 / 255, **options)
        found = build_attack(config)(model, images, labels, noise)
        with torch.no_grad():
            return F.cross_entropy(model.eval()(found), labels).item()

    start, exact = loss(num_steps=0), loss(num_steps=5)
    half = loss(num_steps=5, precision="bf16")
    assert exact > start + 0.01
    assert half - start > 0.95 * (exact - start)
