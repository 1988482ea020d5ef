"""TRADES: clean accuracy plus a divergence that keeps predictions still."""

from __future__ import annotations

from torch import Tensor, nn

from dathvd.objectives.objective import (
    Balanced,
    Terms,
    cross_entropy,
    kl_divergence,
    weighted_mean,
)


class Trades(Balanced):
    """CE(clean) + beta * KL(p(clean) || p(adversarial)).

    Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy,
    ICML 2019, eq. 5, whose 1/lambda is ``beta``. Its attack maximises the divergence
    (``attack.loss: kl``) from a normal start of deviation 0.001.

    Args:
        beta: weight of the divergence.
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
        natural = cross_entropy(clean_logits, labels, self.label_smoothing)
        losses = natural + self.beta * kl_divergence(clean_logits, adversarial_logits)
        return Terms(weighted_mean(losses, weights), clean_logits, adversarial_logits)
