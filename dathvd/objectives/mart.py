"""MART: misclassified images weigh more in the divergence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dathvd.objectives.objective import (
    Balanced,
    Terms,
    cross_entropy,
    kl_divergence,
    weighted_mean,
)


class Mart(Balanced):
    """BCE(adversarial) + beta * KL(p(clean) || p(adversarial)) * (1 - p_label(clean)).

    Wang et al., Improving Adversarial Robustness Requires Revisiting Misclassified
    Examples, ICLR 2020, eq. 11, whose lambda is ``beta``. Its attack maximises CE.

    Args:
        beta: weight of the divergence.
        label_smoothing: share of the label's probability spread in BCE's first part.
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
        boosted = boosted_cross_entropy(
            adversarial_logits, labels, self.label_smoothing
        )
        divergence = kl_divergence(clean_logits, adversarial_logits)
        own = clean_logits.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
        losses = boosted + self.beta * divergence * (1.0 - own)
        return Terms(weighted_mean(losses, weights), clean_logits, adversarial_logits)


def boosted_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """-log p_label - log(1 - largest wrong p) ``[batch]``, eq. 8 of MART.

    The second part is logsumexp(all) - logsumexp(all but the strongest wrong class):
    finite also where that class holds all the probability.
    """
    wrong = logits.detach().scatter(1, labels[:, None], -torch.inf)
    rest = logits.scatter(1, wrong.argmax(dim=1, keepdim=True), -torch.inf)
    second = logits.logsumexp(dim=1) - rest.logsumexp(dim=1)
    return cross_entropy(logits, labels, smoothing) + second
