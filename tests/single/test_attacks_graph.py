"""The attack's step as a graph: on a CPU, with graphs that run what they captured.

``tests/gpu`` holds on a device that real ones give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dathvd.attacks import build_attack, graphs, step_graph, twin
from dathvd.attacks.attack import Attack
from dathvd.config import AttackConfig
from tests.single.small_models import batch, network, nothing_changes

ATTACKS: dict[str, dict[str, Any]] = {
    "pgd": {},
    "from the image": {"random_start": False},
    "fgsm_rs": {"name": "fgsm_rs"},
    "l2, momentum": {"norm": "l2", "epsilon": 0.5, "momentum": 0.9},
    "cosine, early stop": {"step_schedule": "cosine", "early_stop": True},
    "kl from a normal start": {"loss": "kl", "start": "gaussian"},
    "towards a class": {"loss": "margin", "target": "random"},
    "restarts": {"restarts": 2},
}
Captures = list[Callable[[], None]]


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Captures:
    """What was captured; a replay runs it again."""
    found: Captures = []

    def capture(action: Callable[[], None], pool: object = None) -> Callable[[], None]:
        found.append(action)
        return action

    monkeypatch.setattr(graphs, "capture", capture)
    for module in (step_graph, twin):
        monkeypatch.setattr(module, "can_capture", lambda tensor: True)
    return found


def attack(cuda_graph: bool = True, **options: Any) -> Attack:
    chosen = {"epsilon": 0.1, "step_size": 0.03, "num_steps": 3} | options
    return build_attack(AttackConfig(cuda_graph=cuda_graph, **chosen))


def move(model: nn.Module) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    model.train()(torch.rand(6, 3, 6, 5, dtype=torch.float64))


@pytest.mark.parametrize("name", ATTACKS)
def test_replays_follow_batches_and_weights(name: str, captures: Captures) -> None:
    model, plain, replayed = (
        network(),
        attack(cuda_graph=False, **ATTACKS[name]),
        attack(**ATTACKS[name]),
    )
    for seed in range(4):
        images, labels, noise = batch(seed=seed)
        expected = plain(model, images, labels, noise)
        with nothing_changes(model, images, labels):
            found = replayed(model, images, labels, noise)
        assert torch.equal(found, expected)
        move(model)
    assert len(captures) == 2  # the weights' derivation and the step


def test_a_result_outlives_the_next_attack(captures: Captures) -> None:
    model, replayed = network(), attack()
    kept: list[tuple[Tensor, Tensor]] = []
    for seed in range(4):
        images, labels, noise = batch(seed=seed)
        found = replayed(model, images, labels, noise)
        kept.append((found, found.clone()))
    assert all(torch.equal(found, copy) for found, copy in kept)


def test_odd_batches_are_launched_as_usual(captures: Captures) -> None:
    model, replayed, plain = network(), attack(), attack(cuda_graph=False)
    for size in (6, 6, 2, 6, 3, 6):
        images, labels, noise = batch(size)
        expected = plain(model, images, labels, noise)
        assert torch.equal(replayed(model, images, labels, noise), expected)
    assert len(captures) == 2


def test_a_third_shape_gets_no_graph(captures: Captures) -> None:
    model, replayed = network(), attack()
    for size in (6, 5, 4) * 3:
        images, labels, noise = batch(size)
        replayed(model, images, labels, noise)
    assert len(captures) == 3


def test_an_evaluation_captures_no_step(captures: Captures) -> None:
    model, replayed = network(), attack()
    images, labels, noise = batch()
    for _ in range(3):
        replayed.worst_case(model, images, labels, noise)
    assert len(captures) == 1


def test_tensors_that_moved_are_captured_anew(captures: Captures) -> None:
    model, replayed, plain = network(), attack(), attack(cuda_graph=False)
    images, labels, noise = batch()
    for _ in range(2):
        replayed(model, images, labels, noise)
    with torch.no_grad():
        for weight in model.parameters():
            weight.data = weight.data.clone().mul_(1.1)
    for _ in range(3):
        expected = plain(model, images, labels, noise)
        assert torch.equal(replayed(model, images, labels, noise), expected)
    assert len(captures) == 4


def test_between_is_called_before_each_replay(captures: Captures) -> None:
    model, replayed, calls = network(), attack(), []
    replayed.between = lambda: calls.append(0)
    images, labels, noise = batch()
    for _ in range(3):
        replayed(model, images, labels, noise)
    assert len(calls) == 9


def test_a_twins_weights_stay_where_they_are() -> None:
    model, plain = network(), attack(cuda_graph=False)
    images, labels, noise = batch()
    plain(model, images, labels, noise)
    derived = twin.twin_of(model.eval(), plain.forward)  # type: ignore[attr-defined]
    assert derived is not None
    parameters = list(derived._network.parameters())
    places = [weight.data_ptr() for weight in parameters]
    move(model)
    plain(model, images, labels, noise)
    assert places == [weight.data_ptr() for weight in derived._network.parameters()]
