"""Optimizers that exchange gradients with other workers, as a step sees them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class Exchange(Protocol):
    """What carries an optimizer's gradients."""

    @property
    def last_skipped(self) -> bool:
        """Whether the last step changed nothing: its gradient was not finite."""

    def poll(self) -> bool:
        """Move the collectives on without waiting; whether any still travels."""


@runtime_checkable
class Exchanging(Protocol):
    """An optimizer with an exchange of its own, which Horovod's plain one lacks."""

    @property
    def exchanger(self) -> Exchange:
        """What carries its gradients."""
