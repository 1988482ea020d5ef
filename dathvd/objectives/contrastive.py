"""Contrastive pre-training: two views of an image are each other's label."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dathvd.objectives.objective import Objective, Terms, cross_entropy, weighted_mean

Gather = Callable[[Tensor], Tensor]
"""A function of this worker's rows: all workers' rows, this worker's first."""


def own_rows(rows: Tensor) -> Tensor:
    """The rows themselves: what a worker without others gathers."""
    return rows


def similarity_logits(embeddings: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Cosine similarities over the temperature; an embedding's own is minus infinity.

    With them, cross-entropy at the column of a row's other view is InfoNCE: NT-Xent of
    Chen et al., A Simple Framework for Contrastive Learning (ICML 2020), eq. 1.

    Args:
        embeddings: ``[n, d]`` of Euclidean length 1.
        keys: ``[m, d]``, the embeddings and then others, m >= n.
        temperature: above 0.

    Returns:
        ``[n, m]``.
    """
    logits = embeddings @ keys.T / temperature
    return logits.fill_diagonal_(-torch.inf)


class SelfSimilarity(nn.Module):
    """Similarities within a batch: what an attack, which sends nothing, can raise.

    Args:
        encoder: from images to embeddings of any length.
        temperature: above 0.
    """

    def __init__(self, encoder: nn.Module, temperature: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[batch, batch]``."""
        rows = functional.normalize(self.encoder(images))
        return similarity_logits(rows, rows, self.temperature)


class Contrastive(Objective):
    """clean_weight * InfoNCE(clean views) + InfoNCE(attacked views).

    Jiang et al., Robust Pre-Training by Adversarial Contrastive Learning (NeurIPS
    2020), the two streams of section 3.2. The labels of a batch are the rows of each
    image's other view.

    Args:
        temperature: divides the cosine similarities.
        clean_weight: 0 leaves the clean forward pass out.
        gather: brings in the other workers' views as negatives.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.5,
        clean_weight: float = 1.0,
        gather: Gather = own_rows,
    ) -> None:
        self.temperature = temperature
        self.clean_weight = clean_weight
        self.gather = gather

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        adversarial: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
    ) -> Terms:
        """The loss of a batch of views; logits ``[batch, views of all workers]``."""
        clean_logits = self._logits(model, images) if self.clean_weight else None
        adversarial_logits = self._logits(model, adversarial)
        losses = cross_entropy(adversarial_logits, labels, 0.0)
        if clean_logits is not None:
            clean = cross_entropy(clean_logits, labels, 0.0)
            losses = losses + self.clean_weight * clean
        return Terms(weighted_mean(losses, weights), clean_logits, adversarial_logits)

    def attacked(self, model: nn.Module) -> nn.Module:
        """The similarities within this worker's batch."""
        return SelfSimilarity(model, self.temperature)

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        rows = functional.normalize(model(images))
        return similarity_logits(rows, self.gather(rows), self.temperature)

    def __repr__(self) -> str:
        return (
            f"Contrastive(temperature={self.temperature:g}, "
            f"clean_weight={self.clean_weight:g})"
        )
