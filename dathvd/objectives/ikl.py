"""IKL: the divergence of TRADES, taken apart and weighted by class."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from dathvd.objectives.class_means import ClassMeans
from dathvd.objectives.objective import (
    Balanced,
    Terms,
    cross_entropy,
    weighted_mean,
)


class Ikl(Balanced):
    """CE(clean) + beta * wMSE + soft_weight * CE(p(clean) held fixed, p(adversarial)).

    Cui et al., Decoupled Kullback-Leibler Divergence Loss, NeurIPS 2024. The gradient
    of KL(p(clean) || p(adversarial)) is that of two terms (theorem 1): a soft
    cross-entropy, and a weighted squared error of logits (wMSE) in which the attacked
    image's are held fixed. IKL lets both images' logits move in it, and weighs by the
    mean prediction on the label's class in the epoch before, not by the sample's own.
    Its attack maximises the divergence (``attack.loss: kl``), whose gradient in the
    attacked image is the soft cross-entropy's, from a normal start.

    Args:
        beta: weight of wMSE (the paper takes 20 on CIFAR-10).
        label_smoothing: share of the label's probability spread over all classes in
            the first term.
        soft_weight: weight of the soft cross-entropy (the paper's alpha).
        class_temperature: of the softmax in the classes' means.
    """

    def __init__(
        self,
        *,
        beta: float = 6.0,
        label_smoothing: float = 0.0,
        soft_weight: Annotated[float, Field(ge=0)] = 4.0,
        class_temperature: Annotated[float, Field(gt=0)] = 4.0,
    ) -> None:
        super().__init__(beta=beta, label_smoothing=label_smoothing)
        self.soft_weight = soft_weight
        self.class_means = ClassMeans(class_temperature)

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
        assert self.class_means is not None
        shares = self.class_means.of(labels, clean_logits.detach())
        losses = (
            cross_entropy(clean_logits, labels, self.label_smoothing)
            + self.beta * weighted_mse(clean_logits, adversarial_logits, shares)
            + self.soft_weight * soft_cross_entropy(clean_logits, adversarial_logits)
        )
        return Terms(weighted_mean(losses, weights), clean_logits, adversarial_logits)


def weighted_mse(one: Tensor, other: Tensor, shares: Tensor) -> Tensor:
    """sum_jk s_j s_k ((one_j - one_k) - (other_j - other_k))² / 4, ``[batch]``.

    With shares of sum 1 that is half the variance of one - other under them, which
    takes as many products as there are classes.

    Args:
        one: logits ``[batch, classes]``.
        other: of the same shape.
        shares: of the same shape; taken as constant by the paper.
    """
    change = one - other
    mean = (shares * change).sum(dim=1, keepdim=True)
    return 0.5 * (shares * (change - mean).square()).sum(dim=1)


def soft_cross_entropy(clean_logits: Tensor, adversarial_logits: Tensor) -> Tensor:
    """-sum_k p_k(clean) log p_k(adversarial) ``[batch]``; p(clean) is held fixed."""
    likely = clean_logits.detach().softmax(dim=1)
    return -(likely * adversarial_logits.log_softmax(dim=1)).sum(dim=1)
