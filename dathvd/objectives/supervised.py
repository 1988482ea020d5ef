"""Cross-entropy on clean images, on attacked images, or on both."""

from __future__ import annotations

from torch import Tensor, nn

from dathvd.objectives.objective import Objective, Terms, cross_entropy, weighted_mean


class Plain(Objective):
    """CE(clean): training without an adversary.

    Args:
        label_smoothing: share of the label's probability spread over all classes.
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        adversarial: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
    ) -> Terms:
        """The loss of a batch; ``adversarial`` is not looked at."""
        logits = model(images)
        losses = cross_entropy(logits, labels, self.label_smoothing)
        return Terms(weighted_mean(losses, weights), logits, None)

    def __repr__(self) -> str:
        return f"Plain(label_smoothing={self.label_smoothing:g})"


class Adversarial(Objective):
    """clean_weight * CE(clean) + CE(adversarial), eq. 1 of the DAT paper.

    Args:
        clean_weight: the paper's lambda; 0 leaves the clean forward pass out.
        label_smoothing: share of the label's probability spread over all classes.
    """

    def __init__(
        self, *, clean_weight: float = 1.0, label_smoothing: float = 0.0
    ) -> None:
        self.clean_weight = clean_weight
        self.label_smoothing = label_smoothing

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        adversarial: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
    ) -> Terms:
        """The loss of a batch."""
        clean_logits = model(images) if self.clean_weight else None
        adversarial_logits = model(adversarial)
        losses = cross_entropy(adversarial_logits, labels, self.label_smoothing)
        if clean_logits is not None:
            clean = cross_entropy(clean_logits, labels, self.label_smoothing)
            losses = losses + self.clean_weight * clean
        return Terms(weighted_mean(losses, weights), clean_logits, adversarial_logits)

    def __repr__(self) -> str:
        return (
            f"Adversarial(clean_weight={self.clean_weight:g}, "
            f"label_smoothing={self.label_smoothing:g})"
        )
