"""What a step changes before it is known whether it counts, and how that is undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class Backup:
    """Copies of tensors that a step may spoil, such as batch norm's statistics.

    Args:
        find: the tensors by name, as they are now.
    """

    def __init__(self, find: Callable[[], Mapping[str, Tensor]]) -> None:
        self._find = find
        self._copies: dict[str, Tensor] = {}

    @torch.no_grad()
    def take(self) -> None:
        """Copy all of them; waits for nothing."""
        now = {name: tensor.detach() for name, tensor in self._find().items()}
        if {name: tensor.shape for name, tensor in now.items()} != {
            name: tensor.shape for name, tensor in self._copies.items()
        }:
            self._copies = {name: torch.empty_like(now[name]) for name in now}
        torch._foreach_copy_(list(self._copies.values()), list(now.values()))

    @torch.no_grad()
    def put_back(self) -> None:
        """Make all of them what they were."""
        for name, tensor in self._find().items():
            if name in self._copies:
                tensor.copy_(self._copies[name])
