"""What a network makes of each class on average: an objective's memory of an epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


class ClassMeans:
    """The mean prediction on each class's images, as of the epoch before.

    Each worker adds up what it sees; at an epoch's end the sums of all workers become
    the means. A class that was not seen keeps the mean that it had. Before the first
    epoch's end all classes are equally likely. Mixed labels count in their parts.

    Args:
        temperature: divides the logits; above 1 for flatter means.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature
        self.means: Tensor | None = None
        """Float64 ``[classes, classes]``, rows of sum 1, equal on all workers; None
        before the first epoch's end."""
        self.sums: Tensor | None = None
        """What this worker has added up, of the same shape; None before anything."""
        self._noted: list[Tensor] = []

    def of(self, labels: Tensor, logits: Tensor) -> Tensor:
        """The mean prediction on the label's class.

        Args:
            labels: int64 ``[batch]``, or shares ``[batch, classes]``.
            logits: ``[batch, classes]``, whose type the result has.

        Returns:
            ``[batch, classes]``, rows of sum 1.
        """
        if self.means is None:
            return torch.full_like(logits, 1 / logits.shape[1])
        self.means = self.means.to(logits.device)
        means = self.means.to(logits.dtype)
        return labels.to(means) @ means if labels.is_floating_point() else means[labels]

    @torch.no_grad()
    def see(self, labels: Tensor, logits: Tensor) -> None:
        """Note a batch's predictions, which ``keep`` counts; waits for nothing."""
        predicted = (logits / self.temperature).softmax(dim=1).double()
        if not labels.is_floating_point():
            labels = F.one_hot(labels, logits.shape[1])
        self._noted.append(labels.to(predicted).T @ predicted)

    def keep(self) -> None:
        """Count what was noted: its step was taken."""
        for part in self._noted:
            self.add(part)
        self.forget()

    def forget(self) -> None:
        """Drop what was noted: its step was skipped."""
        self._noted = []

    def add(self, sums: Tensor) -> None:
        """Count what was added up elsewhere."""
        self.sums = sums if self.sums is None else self.sums + sums.to(self.sums.device)

    def end_epoch(
        self, num_classes: int, sum_over_workers: Callable[[Tensor], Tensor]
    ) -> None:
        """Make means of the sums of all workers, and begin anew. A collective."""
        nothing = torch.zeros(num_classes, num_classes, dtype=torch.float64)
        total = sum_over_workers(nothing if self.sums is None else self.sums)
        before = total.new_full(total.shape, 1 / num_classes)
        if self.means is not None:
            before = self.means.to(total)
        counts = total.sum(dim=1, keepdim=True)  # each prediction has the sum 1
        self.means = torch.where(counts > 0, total / counts.clamp_min(1e-30), before)
        self.sums = None
