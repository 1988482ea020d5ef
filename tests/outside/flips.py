"""An optimizer on a machine whose memory loses a bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

import torch
from torch.optim.optimizer import Optimizer, ParamsT

from dathvd.ranks import launched_rank

from .updates import SignDescent

TAKEN = "steps taken by this process"


class FlipsABit(SignDescent):
    """Flips one bit of one rank's memory after a step, each fault once.

    Args:
        params: parameters or groups.
        lr: learning rate.
        decay: decay of the average, in [0, 1).
        faults: of each, ``rank`` (whose memory), ``after`` (which step of a process),
            ``where`` (``weight`` or ``average``, of the first parameter) and ``mark``
            (a file that is made then).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.01,
        *,
        decay: float = 0.5,
        faults: list[dict[str, Any]] | None = None,
    ) -> None:
        # in the groups, from which Horovod builds its own optimizer
        settings = {"lr": lr, "decay": decay, "faults": faults or []}
        Optimizer.__init__(self, params, settings)

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
        for fault in group["faults"]:
            mark = Path(fault["mark"])
            now = (launched_rank(), taken) == (fault["rank"], fault["after"])
            if now and not mark.exists():
                mark.touch()
                weight = group["params"][0]
                average = self.state[weight]["average"]
                hit = weight if fault["where"] == "weight" else average
                hit.view(torch.int32).view(-1)[0] ^= 1 << 20
        return None
