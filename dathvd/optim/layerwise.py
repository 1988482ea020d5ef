"""The base of LAMB and LARS: steps over lists of tensors, scaled layer by layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from dathvd.optim.trust import trust_ratio

Group = dict[str, Any]


def norms(tensors: list[Tensor]) -> Tensor:
    """The L2 norms ``[number of tensors]``, on their device."""
    return torch.stack(torch._foreach_norm(tensors))


class LayerwiseOptimizer(Optimizer):
    """Updates ``u`` of every tensor ``w``, scaled by ``trust_ratio(|w|, |u|)``.

    All tensors of a group advance in one call (``torch._foreach_*``), and nothing
    waits for the device. A group holds all hyperparameters, so that an optimizer built
    from the groups alone is the same one.
    """

    def __init__(self, params: ParamsT, defaults: Group) -> None:
        super().__init__(params, {"adapt": True, "step": 0, **defaults})
        self._ratios: dict[Tensor, Tensor] = {}

    @abstractmethod
    def _update(
        self, group: Group, weights: list[Tensor], gradients: list[Tensor]
    ) -> None:
        """Advance a group's weights and state; ``group["step"]`` counts from 1."""

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._ratios = {}
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                group["step"] += 1
                gradients = [weight.grad for weight in weights]
                self._update(group, weights, gradients)
        return loss

    def _trust(
        self, group: Group, weights: list[Tensor], update_norms: Tensor
    ) -> list[Tensor]:
        """The trust ratio of every tensor, remembered for logs."""
        ratios = trust_ratio(
            norms(weights),
            update_norms,
            coefficient=group["trust_coefficient"],
            min_weight_norm=group["min_weight_norm"],
            max_weight_norm=group["max_weight_norm"],
        )
        each = list(ratios.unbind())
        self._ratios |= zip(weights, each)
        return each

    def _moments(self, name: str, weights: Iterable[Tensor]) -> list[Tensor]:
        """The state tensors of that name, zero at first."""
        moments = []
        for weight in weights:
            state = self.state[weight]
            if name not in state:
                state[name] = torch.zeros_like(weight)
            moments.append(state[name])
        return moments

    def trust_ratios(self) -> dict[Tensor, Tensor]:
        """The last step's ratio (a scalar tensor) of every adapted parameter."""
        return self._ratios


def named_trust_ratios(
    optimizer: Optimizer, named_parameters: Iterable[tuple[str, Tensor]]
) -> dict[str, float]:
    """The last step's trust ratios by name, in one transfer; empty without LALR.

    For logs: it waits for the device, so it does not belong in the training step.
    """
    if not isinstance(optimizer, LayerwiseOptimizer):
        return {}
    ratios = optimizer.trust_ratios()
    found = {
        name: ratios[tensor] for name, tensor in named_parameters if tensor in ratios
    }
    if not found:
        return {}
    values: list[float] = torch.stack(list(found.values())).tolist()
    return dict(zip(found, values))
