"""An optimizer on a machine whose memory loses a bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import overload

import torch
from torch.optim.optimizer import Optimizer, ParamsT

from dathvd.ranks import launched_rank

from .updates import SignDescent

TAKEN = "steps taken by this process"


class FlipsABit(SignDescent):
    """Flips one bit of one rank's memory after a step, the first time only.

    Args:
        params: parameters or groups.
        lr: learning rate.
        decay: decay of the average, in [0, 1).
        rank: whose memory; -1 is nobody's.
        after: which step of a process.
        where: ``weight`` or ``average``, of the first parameter.
        mark: a file that is made then.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.01,
        *,
        decay: float = 0.5,
        rank: int = -1,
        after: int = 3,
        where: str = "weight",
        mark: str = "",
    ) -> None:
        # in the groups, from which Horovod builds its own optimizer
        fault = {"rank": rank, "after": after, "where": where, "mark": mark}
        Optimizer.__init__(self, params, {"lr": lr, "decay": decay, **fault})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update, and perhaps a fault."""
        super().step(closure)
        group = self.param_groups[0]
        taken = self.__dict__[TAKEN] = self.__dict__.get(TAKEN, 0) + 1
        here = launched_rank() == group["rank"] and taken == group["after"]
        if here and not Path(group["mark"]).exists():
            Path(group["mark"]).touch()
            weight = group["params"][0]
            state = self.state[weight]
            hit = weight if group["where"] == "weight" else state["average"]
            hit.view(torch.int32).view(-1)[0] ^= 1 << 20
        return None
