"""The outer minimisation: the loss that the weights are trained on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dathvd.components import OBJECTIVES, PRETEXTS, WITHOUT_CLASSES
from dathvd.config.base import (
    ComponentSection,
    Count,
    NonNegative,
    Positive,
    named_in,
)
from dathvd.registry import is_foreign


class ObjectiveConfig(ComponentSection):
    """A loss of clean and adversarial predictions."""

    name: Annotated[str, named_in(OBJECTIVES)] = "adversarial"
    """adversarial: clean_weight * CE(clean) + CE(adversarial); plain: CE(clean);
    trades: CE(clean) + beta * KL(clean || adversarial); mart: boosted
    CE(adversarial) + beta * KL(clean || adversarial) * (1 - p_label(clean)); score:
    |p(clean) - y|² + beta * |p(adversarial) - p(clean)|², y the label; ikl: trades
    with its divergence taken apart, CE(clean) + beta * a squared error of logits,
    weighted by the class's mean prediction, + options.soft_weight (4) * CE(clean's
    prediction, adversarial); hat: trades + options.helper_weight (0.5) * CE at
    options.reach (2) times the attack's distance, where a helper says the label. Two
    pre-train without labels, both with clean_weight and on attacked images too:
    rotation (by which quarter turn each image was rotated) and contrastive (InfoNCE
    between two views of each image, negatives from all workers). Another one is named
    by its place, package.module:attribute."""
    clean_weight: NonNegative = 1.0
    """Weight of the clean loss of adversarial (the paper's lambda), rotation and
    contrastive."""
    beta: NonNegative = 6.0
    """Weight of the divergence: 1/lambda in TRADES, lambda in MART; of the second term
    of score (its paper takes 3 to 4), ikl (20) and hat (2.5)."""
    helper: str | None = None
    """A run or checkpoint folder, whose naturally trained network helps hat."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the label's probability that is spread over all classes in CE."""
    weight_perturbation: NonNegative = 0.0
    """Length of the adversarial perturbation of each weight tensor over its own;
    0 switches it off, its paper takes 0.005."""
    grad_align: NonNegative = 0.0
    """Weight of GradAlign (Andriushchenko and Flammarion, NeurIPS 2020): input
    gradients at an image and at a point drawn in the L∞ ball are made to agree, which
    keeps single-step training from collapsing, for two passes more and a second
    derivative. 0 leaves it out, its paper takes 0.2 for CIFAR-10 at 8/255."""
    temperature: Positive = 0.5
    """What contrastive divides cosine similarities by."""
    dimension: Count = 128
    """Length of contrastive's embeddings."""

    @property
    def is_self_supervised(self) -> bool:
        """Whether the data set's labels are not looked at."""
        return self.name in PRETEXTS

    @property
    def has_classes(self) -> bool:
        """Whether the network tells classes apart, the data set's or others."""
        return self.name not in WITHOUT_CLASSES

    @model_validator(mode="after")
    def _smoothing_needs_classes(self) -> ObjectiveConfig:
        if self.label_smoothing and not self.has_classes:
            raise ValueError(f"{self.name} has no classes: set label_smoothing to 0")
        return self

    @model_validator(mode="after")
    def _a_helper_is_there_where_it_is_asked(self) -> ObjectiveConfig:
        if self.name == "hat" and self.helper is None:
            raise ValueError(
                "hat needs a naturally trained network: set helper to its run"
            )
        if self.helper is not None and self.name != "hat" and not is_foreign(self.name):
            raise ValueError(f"{self.name} asks no helper: set helper to null")
        return self
