"""The outer minimisation: the loss that the weights are trained on."""

from __future__ import annotations

from typing import Literal

from dathvd.config.base import NonNegative, Section


class ObjectiveConfig(Section):
    """A loss of clean and adversarial predictions."""

    name: Literal["adversarial", "plain"] = "adversarial"
    """adversarial: clean_weight * CE(clean) + CE(adversarial); plain: CE(clean)."""
    clean_weight: NonNegative = 1.0
    """Weight of the clean loss (the paper's lambda)."""
