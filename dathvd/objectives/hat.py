"""HAT: a naturally trained helper says how far from an image its class may end."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from dathvd.objectives.objective import (
    Balanced,
    Terms,
    cross_entropy,
    kl_divergence,
    weighted_mean,
)


class Hat(Balanced):
    """CE(clean) + beta * KL(p(clean) || p(adversarial)) + helper_weight * CE(far, h).

    Rade and Moosavi-Dezfooli, Reducing Excessive Margin to Achieve a Better Accuracy
    vs. Robustness Trade-off, ICLR 2022, eq. 6 with TRADES in the place of its second
    term, as in the paper's experiments. The far point is the image moved ``reach``
    times as far as the attack moved it, not clipped; its label h is what the helper
    says of the attacked image. Its attack is TRADES's.

    Args:
        beta: weight of the divergence (the paper takes 2.5 on CIFAR-10).
        label_smoothing: share of the label's probability spread over all classes in
            the first term.
        helper: the naturally trained network, frozen and in eval mode.
        helper_weight: the paper's gamma.
        reach: the far point's distance over the attacked image's.
    """

    def __init__(
        self,
        *,
        beta: float = 6.0,
        label_smoothing: float = 0.0,
        helper_network: nn.Module | None = None,
        helper_weight: Annotated[float, Field(ge=0)] = 0.5,
        reach: Annotated[float, Field(gt=1)] = 2.0,
    ) -> None:
        super().__init__(beta=beta, label_smoothing=label_smoothing)
        self.helper = helper_network
        self.helper_weight = helper_weight
        self.reach = reach

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        adversarial: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
    ) -> Terms:
        """The loss of a batch."""
        assert self.helper is not None
        with torch.no_grad():
            far = images + self.reach * (adversarial - images)
            told = self.helper(adversarial).argmax(dim=1)
        clean_logits, adversarial_logits = model(images), model(adversarial)
        losses = (
            cross_entropy(clean_logits, labels, self.label_smoothing)
            + self.beta * kl_divergence(clean_logits, adversarial_logits)
            + self.helper_weight * cross_entropy(model(far), told, 0.0)
        )
        return Terms(weighted_mean(losses, weights), clean_logits, adversarial_logits)
