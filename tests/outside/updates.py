"""An optimizer of a user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


class SignDescent(Optimizer):
    """Moves each weight by the learning rate against its averaged gradient's sign.

    Args:
        params: parameters or groups.
        lr: learning rate.
        decay: decay of the average, in [0, 1).
    """

    def __init__(
        self, params: ParamsT, lr: float = 0.01, *, decay: float = 0.5
    ) -> None:
        super().__init__(params, {"lr": lr, "decay": decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    state = self.state[weight]
                    average = state.setdefault("average", torch.zeros_like(weight))
                    average.lerp_(weight.grad, 1 - group["decay"])
                    weight.add_(average.sign(), alpha=-group["lr"])
        return None


class NeedsRate(SignDescent):
    """What Horovod cannot build from its groups alone, for the refusal of it."""

    def __init__(self, params: ParamsT, lr: float) -> None:
        super().__init__(params, lr)
