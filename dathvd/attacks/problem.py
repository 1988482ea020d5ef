"""The problem that one run of an attack solves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dathvd.attacks.network import Network


@dataclass(frozen=True)
class Problem:
    """One maximisation: ``sign * loss`` over the ball around the images."""

    network: Network
    images: Tensor
    goal: Tensor
    """The labels to flee, or the classes to reach."""
    clean: Tensor | None
    """The clean logits, where the loss or the target rule needs them."""
    flaw: Tensor
    """A scalar: 0, or NaN once a gradient was not finite."""
    repeats: bool = False
    """Whether batches of this shape will come again, as those of training do."""
