"""Run by the contract test on one or two ranks: Horovod's seam, used as we use it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import MethodType
from typing import Any

import horovod.torch as hvd
import torch
from torch import Tensor, nn

from dathvd.distributed import DistributedOptimizer
from tests.parallel.laws import SEAM_LAWS

LAUNCHES = ("alone", "mpi-2", "gloo-2")


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 2))


def plain(network: nn.Module) -> Any:
    return hvd.DistributedOptimizer(
        torch.optim.SGD(network.parameters(), lr=1.0), network.named_parameters()
    )


def override(optimizer: Any, events: list[tuple[str, Tensor]]) -> None:
    """Answer every gradient with a callable that yields a tensor of sevens."""

    def start(self: Any, parameter: Tensor) -> tuple[Callable[[], Tensor], None]:
        events.append(("start", parameter))

        def wait() -> Tensor:
            events.append(("wait", parameter))
            return torch.full_like(parameter, 7.0)

        return wait, None

    optimizer._allreduce_grad_async = MethodType(start, optimizer)
    if hvd.size() == 1:
        optimizer._register_hooks()


@SEAM_LAWS.on(*LAUNCHES)
def hooks_and_callable_handles() -> None:
    network = _model()
    optimizer, events = plain(network), []  # type: Any, list[tuple[str, Tensor]]
    override(optimizer, events)
    network(torch.ones(3, 40)).sum().backward()
    order = [parameter for _, parameter in events]
    assert {id(p) for p in order} == {id(p) for p in network.parameters()}
    assert {id(p) for p in order[:2]} == {id(p) for p in network[2].parameters()}
    optimizer.synchronize()
    assert [kind for kind, _ in events].count("wait") == 4
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, torch.full_like(parameter, 7))
    before = [p.detach().clone() for p in network.parameters()]
    with optimizer.skip_synchronize():
        optimizer.step()
    for old, new in zip(before, network.parameters()):
        assert torch.equal(old - 7, new)


@SEAM_LAWS.on(*LAUNCHES)
def every_parameter_is_submitted_before_any_is_awaited() -> None:
    network = _model()
    optimizer, events = plain(network), []  # type: Any, list[tuple[str, Tensor]]
    override(optimizer, events)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    network[2](torch.ones(3, 30)).sum().backward()
    assert len(events) == 2
    optimizer.step()
    kinds = [kind for kind, _ in events]
    assert kinds == ["start"] * 4 + ["wait"] * 4


@SEAM_LAWS.on(*LAUNCHES)
def hooks_exist_for_one_worker_only_when_asked() -> None:
    optimizer = plain(_model())
    assert bool(optimizer._requires_update) == (hvd.size() > 1)
    network = _model()
    ours: Any = DistributedOptimizer(
        torch.optim.SGD(network.parameters(), lr=1.0), network.named_parameters()
    )
    assert len(ours._requires_update) == 4


@SEAM_LAWS.on(*LAUNCHES)
def our_override_carries_the_mean() -> None:
    network = _model()
    optimizer: Any = DistributedOptimizer(
        torch.optim.SGD(network.parameters(), lr=1.0), network.named_parameters()
    )
    before = [p.detach().clone() for p in network.parameters()]
    (network(torch.full((1, 40), 1.0 + hvd.rank())).sum()).backward()
    mine = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    optimizer.step()
    for old, gradient, new in zip(before, mine, network.parameters()):
        mean = hvd.allreduce(gradient, op=hvd.Sum) / hvd.size()
        torch.testing.assert_close(old - mean, new)


def main() -> None:
    hvd.init()
    SEAM_LAWS.check(sys.argv[1])


if __name__ == "__main__":
    main()
