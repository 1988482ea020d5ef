"""Updates that are launched before it is known whether they count.

A step is skipped where its mean gradient is not finite, which the device finds out and
the host has to be told. A host that waits for the answer before it launches the update
leaves the device without work for the length of that round trip. Here the update is
launched first, after a copy of what it changes, and the host waits while the device
computes; the copy is put back in the rare step that does not count.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Verdict:
    """A truth value of the device on its way to the host.

    Args:
        value: a boolean scalar on any device; a GPU's is copied into pinned memory
            without waiting.
    """

    def __init__(self, value: Tensor) -> None:
        self._value, self._arrived = value, None
        if value.is_cuda:
            self._value = torch.empty_like(value, device="cpu", pin_memory=True)
            self._value.copy_(value, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> bool:
        """The value; waits for the device."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._value)


class UpdateBackup:
    """All that one ``step`` of an optimizer changes, as it was before.

    Parameters, the tensors of the optimizer's state, and whatever else the optimizer
    keeps: hyperparameters and counters of its groups, entries of the state, attributes.
    The copies' memory is kept for the next step.

    Args:
        optimizer: any optimizer of torch's interface.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._copies: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def take(self) -> None:
        """Copy everything; waits for nothing."""
        optimizer = self._optimizer
        self._attributes = dict(vars(optimizer))
        self._groups = [
            {name: value for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        self._state = {key: dict(value) for key, value in optimizer.state.items()}
        known = self._copies
        self._copies = {
            each: known[each] if each in known else torch.empty_like(each)
            for each in self._tensors()
        }
        _copy(list(self._copies), list(self._copies.values()))

    @torch.no_grad()
    def put_back(self) -> None:
        """Make everything what it was when the copy was taken."""
        optimizer = self._optimizer
        _copy(list(self._copies.values()), list(self._copies))
        vars(optimizer).update(self._attributes)
        for group, values in zip(optimizer.param_groups, self._groups):
            group.update(values)
        optimizer.state.clear()
        optimizer.state.update(self._state)

    def _tensors(self) -> list[Tensor]:
        """The parameters and the state's tensors."""
        groups = self._optimizer.param_groups
        parameters: list[Tensor] = [
            each for group in groups for each in group["params"]
        ]
        kept = [value for state in self._state.values() for value in state.values()]
        return parameters + [value for value in kept if isinstance(value, Tensor)]


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    """Copy each, by one call a device: Adam counts its steps on the CPU."""
    for device in {each.device for each in sources}:
        pairs = [
            (source, target)
            for source, target in zip(sources, targets)
            if source.device == device
        ]
        torch._foreach_copy_([t for _, t in pairs], [s for s, _ in pairs])
