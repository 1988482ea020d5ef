"""An objective of a user's own."""

from __future__ import annotations

from torch import Tensor, nn

from dathvd.objectives import Objective, Terms
from dathvd.objectives.objective import cross_entropy, weighted_mean


class Focal(Objective):
    """Cross-entropy of attacked images times ``(1 - p_label) ** gamma``.

    Args:
        gamma: 0 is plain cross-entropy.
    """

    def __init__(self, *, gamma: float = 2.0) -> None:
        self.gamma = gamma

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        adversarial: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
    ) -> Terms:
        """The loss of a batch."""
        logits = model(adversarial)
        losses = cross_entropy(logits, labels, 0.0)
        losses = losses * (1 - (-losses).exp()) ** self.gamma
        return Terms(weighted_mean(losses, weights), None, logits)
