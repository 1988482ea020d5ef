"""SCORE: squared errors of probabilities, which let the clean prediction stay right."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dathvd.objectives.objective import Balanced, Terms, weighted_mean


class Score(Balanced):
    """|p(clean) - y|² + beta * |p(adversarial) - p(clean)|².

    Pang et al., Robustness and Accuracy Could Be Reconcilable by (Proper) Definition,
    ICML 2022, section 4: the squared error is a metric where TRADES's divergence is
    none, so that the bound of the two terms holds. Its attack maximises the second one
    (``attack.loss: squared``) from a normal start.

    Args:
        beta: weight of the second term (the paper takes 3 to 4).
        label_smoothing: share of the label's probability spread over all classes.
    """

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        adversarial: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
    ) -> Terms:
        """The loss of a batch."""
        clean_logits, adversarial_logits = model(images), model(adversarial)
        clean = clean_logits.softmax(dim=1)
        goal = targets(labels, clean, self.label_smoothing)
        moved = adversarial_logits.softmax(dim=1)
        losses = squared_error(clean, goal) + self.beta * squared_error(moved, clean)
        return Terms(weighted_mean(losses, weights), clean_logits, adversarial_logits)


def squared_error(one: Tensor, other: Tensor) -> Tensor:
    """The squared distance of two distributions, ``[batch]``."""
    return (one - other).square().sum(dim=1)


def targets(labels: Tensor, like: Tensor, smoothing: float) -> Tensor:
    """(1 - s) * label + s / classes, ``[batch, classes]``.

    Args:
        labels: int64 ``[batch]``, or shares ``[batch, classes]``.
        like: ``[batch, classes]``, whose type the result has.
        smoothing: s.
    """
    classes = like.shape[1]
    if not labels.is_floating_point():
        labels = F.one_hot(labels, classes)
    return labels.to(like.dtype) * (1 - smoothing) + smoothing / classes
