"""The outer minimisation: the loss that the weights are trained on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dathvd.config.base import NonNegative, Section


class ObjectiveConfig(Section):
    """A loss of clean and adversarial predictions."""

    name: Literal["adversarial", "plain", "trades", "mart"] = "adversarial"
    """adversarial: clean_weight * CE(clean) + CE(adversarial); plain: CE(clean);
    trades: CE(clean) + beta * KL(clean || adversarial); mart: boosted
    CE(adversarial) + beta * KL(clean || adversarial) * (1 - p_label(clean))."""
    clean_weight: NonNegative = 1.0
    """Weight of the clean loss of adversarial (the paper's lambda)."""
    beta: NonNegative = 6.0
    """Weight of the divergence: 1/lambda in TRADES, lambda in MART."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the label's probability that is spread over all classes in CE."""
    weight_perturbation: NonNegative = 0.0
    """Length of the adversarial perturbation of each weight tensor over its own;
    0 switches it off, its paper takes 0.005."""
