"""Updates that are launched before the host knows whether their step counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import horovod.torch as hvd
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from dathvd.compression import Compression
from dathvd.distributed import DistributedOptimizer, Exchanger
from dathvd.distributed.provisional import UpdateBackup, Verdict
from dathvd.optim import LAMB, LARS, named_trust_ratios

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "lamb": lambda parameters: LAMB(parameters, lr=0.1, bias_correction=True),
    "lars": lambda parameters: LARS(parameters, lr=0.1),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
}
BAD = (0, 2, 3)  # the first step has no state yet to go back to


@pytest.fixture(autouse=True)
def one_worker() -> None:
    hvd.init()


@pytest.fixture
def provisional(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU, on the CPU."""
    elsewhere = property(lambda self: torch.device("meta"))
    monkeypatch.setattr(Exchanger, "device", elsewhere)


def trained(name: str) -> tuple[list[Any], list[bool]]:
    """Everything that training leaves after six steps, and which were skipped."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    plain = OPTIMIZERS[name](model.parameters())
    optimizer: Any = DistributedOptimizer(
        plain, list(model.named_parameters()), Compression.sign, min_values=4
    )
    skipped = []
    for step in range(6):
        optimizer.zero_grad()
        images = torch.randn(8, 5)
        if step in BAD:
            images[1, 1] = torch.inf
        model(images).square().mean().backward()
        optimizer.step()
        skipped.append(optimizer.exchanger.last_skipped)
    state = optimizer.state_dict()
    left = [dict(model.state_dict()), state["state"], state["param_groups"]]
    left.append(named_trust_ratios(optimizer, model.named_parameters()))
    left.append(optimizer.exchanger.state_dict())
    return left, skipped


def assert_same(one: Any, other: Any) -> None:
    """Two nested collections hold equal values and tensors of equal bits."""
    leaves, structure = tree_flatten(one)
    others, other_structure = tree_flatten(other)
    assert structure == other_structure
    for leaf, value in zip(leaves, others):
        equal = torch.equal(leaf, value) if isinstance(leaf, Tensor) else leaf == value
        assert equal, (leaf, value)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_same_bits_as_an_update_that_waits(
    name: str, request: pytest.FixtureRequest
) -> None:
    waiting, skipped = trained(name)
    assert skipped == [step in BAD for step in range(6)]
    request.getfixturevalue("provisional")
    launched, skipped = trained(name)
    assert skipped == [step in BAD for step in range(6)]
    assert_same(launched, waiting)


def test_the_update_comes_before_the_answer(
    provisional: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    read, update = Verdict.read, LAMB._update

    def recorded_read(self: Verdict) -> bool:
        order.append("answer")
        return read(self)

    def recorded_update(self: LAMB, *arguments: Any) -> None:
        order.append("update")
        update(self, *arguments)

    monkeypatch.setattr(Verdict, "read", recorded_read)
    monkeypatch.setattr(LAMB, "_update", recorded_update)
    trained("lamb")
    assert order == ["update", "answer"] * 6


def test_a_caller_who_synchronises_is_told_at_once(provisional: None) -> None:
    model = nn.Linear(3, 2)
    optimizer: Any = DistributedOptimizer(LAMB(model.parameters(), lr=0.1))
    before = [each.clone() for each in model.parameters()]
    (model(torch.ones(2, 3)).sum() * torch.nan).backward()
    optimizer.synchronize()
    assert optimizer.exchanger.last_skipped
    with optimizer.skip_synchronize():
        optimizer.step()
    torch.testing.assert_close(list(model.parameters()), before, rtol=0, atol=0)


def test_a_backup_remembers_tensors_and_all_else() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.5)
    backup = UpdateBackup(optimizer)

    def update(gradient: float) -> None:
        weight.grad = torch.full((3,), gradient)
        optimizer.step()

    update(1.0)
    kept: list[Tensor] = [weight.clone(), optimizer.state[weight]["exp_avg"].clone()]
    backup.take()
    optimizer.param_groups[0]["lr"] = 7.0
    update(2.0)
    backup.put_back()
    now = [weight, optimizer.state[weight]["exp_avg"]]
    torch.testing.assert_close(now, kept, rtol=0, atol=0)
    assert optimizer.state[weight]["step"] == 1
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_backup_keeps_its_memory_for_the_next_step() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.5, momentum=0.9)
    backup, places = UpdateBackup(optimizer), []
    for _ in range(3):
        weight.grad = torch.ones(3)
        optimizer.step()
        backup.take()
        places.append([each.data_ptr() for each in backup._copies.values()])
    assert len(places[0]) == 2 and places[0] == places[1] == places[2]
