"""The interface of every objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from dathvd.noise import SampleNoise
from dathvd.objectives.class_means import ClassMeans


@dataclass(frozen=True)
class Terms:
    """The loss of one batch, and the predictions it was computed from."""

    loss: Tensor
    """Scalar, to be differentiated."""
    clean_logits: Tensor | None
    """Logits ``[batch, classes]`` of the clean images; None where they are not used."""
    adversarial_logits: Tensor | None
    """Logits of the attacked images; None where they are not used."""


class Objective(ABC):
    """A loss of clean and attacked images.

    Clean and attacked images take a forward pass each, the clean ones first. One pass
    over both, concatenated, would be another function where there is batch norm: each
    half would be normalised by the statistics of the mixture, while the paper's code,
    and evaluation, see one kind at a time. Without batch norm the two are equal.
    """

    class_means: ClassMeans | None = None
    """What it remembers of each class; the training loop fills and saves it."""

    def begin(self, noise: SampleNoise) -> None:
        """Take the noise of the batch that comes next, where it needs any."""

    @abstractmethod
    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        adversarial: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
    ) -> Terms:
        """The loss of a batch.

        Args:
            model: from images to logits.
            images: float ``[batch, ...]`` in [0, 1].
            adversarial: the attacked images, of the same shape.
            labels: int64 ``[batch]``.
            weights: float ``[batch]``; None weighs every sample 1. The loss is
                ``sum(weights * losses) / batch``. Where R ranks hold B_r samples each,
                of N in total, weights of ``R * B_r / N`` make the mean of the ranks'
                gradients the gradient of the mean over all N; padding weighs 0.
        """

    def attacked(self, model: nn.Module) -> nn.Module:
        """The network whose logits an attack on this objective's labels raises."""
        return model


class Wrapping(Objective):
    """An objective made of another one, whose attack and memory it shares.

    Args:
        objective: the other one.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.class_means = objective.class_means

    def attacked(self, model: nn.Module) -> nn.Module:
        """The network that the wrapped objective's attack sees."""
        return self.objective.attacked(model)


class Balanced(Objective):
    """An objective of two terms, the second of which has a weight.

    Args:
        beta: weight of the second term.
        label_smoothing: share of the label's probability spread over all classes, in
            the term that has the label.
    """

    def __init__(self, *, beta: float = 6.0, label_smoothing: float = 0.0) -> None:
        self.beta = beta
        self.label_smoothing = label_smoothing

    def __repr__(self) -> str:
        name, smoothing = type(self).__name__, self.label_smoothing
        return f"{name}(beta={self.beta:g}, label_smoothing={smoothing:g})"


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """``sum(weights * losses) / batch``; 0 for an empty batch."""
    if weights is not None:
        losses = losses * weights
    return losses.sum() / max(len(losses), 1)


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy ``[batch]`` with targets (1 - s) * onehot + s / classes.

    Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, section 7.
    """
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def kl_divergence(clean_logits: Tensor, adversarial_logits: Tensor) -> Tensor:
    """KL(p(clean) || p(adversarial)) ``[batch]``, differentiable in both."""
    return F.kl_div(
        adversarial_logits.log_softmax(dim=1),
        clean_logits.log_softmax(dim=1),
        reduction="none",
        log_target=True,
    ).sum(dim=1)
