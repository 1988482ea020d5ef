"""The update and its schedule."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dathvd.components import OPTIMIZERS
from dathvd.config.base import (
    ComponentSection,
    Count,
    FromList,
    Natural,
    NonNegative,
    Positive,
    Section,
    Share,
    named_in,
)

PUBLISHED: dict[str, dict[str, Any]] = {
    "lars": {"weight_decay": 5e-4, "max_weight_norm": None},
    "adamw": {"beta1": 0.9, "eps": 1e-8, "weight_decay": 0.01},
}
"""Defaults of single optimizers, as published, where they are not those of the fields:
LARS (You, Gitman, Ginsburg, 2017) and AdamW (Loshchilov and Hutter, ICLR 2019, and
PyTorch). The fields' are LAMB's; SGD shares its momentum and weight decay with He et
al. (CVPR 2016)."""


class OptimizerConfig(ComponentSection):
    """An optimizer of ``dathvd.optim.OPTIMIZERS``.

    A field that is not set has the named optimizer's default: that of ``PUBLISHED``, or
    else the field's.
    """

    name: Annotated[str, named_in(OPTIMIZERS)] = "lamb"
    """lamb and lars have layer-wise adaptive learning rates; sgd (with
    options.nesterov); adamw; or the place of another one, such as torch.optim:NAdam."""
    lr: Positive = 0.03
    """The learning rate at the end of the warm-up, for base_batch_size images a step
    where scaling is not none."""
    scaling: Literal["none", "linear", "sqrt"] = "none"
    """How the learning rate grows with the batch over base_batch_size."""
    base_batch_size: Count = 64
    """The batch size that lr was chosen for; only scaling uses it."""
    momentum: Share = 0.9
    """Momentum of lars and sgd."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.7
    """Decay of the first moment (lamb, adamw). 0.9 is usual, and adamw's default; runs
    of few steps want less where gradients are compressed, as error feedback delays them
    too."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the second moment (lamb, adamw)."""
    eps: Positive = 1e-6
    """Added to the root of the second moment (lamb, adamw, whose default is 1e-8)."""
    weight_decay: NonNegative = 1e-4
    """Weight decay, inside the update that the trust ratio scales (lamb, lars). The
    default of lars is 5e-4, that of adamw 0.01."""
    max_gradient_norm: Positive | None = None
    """Length of the mean gradient of all weights at most: longer ones are scaled down,
    after the exchange and before the update; null for any length."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate from each block of the network to the one before it
    (layer-wise decay, Clark et al., ICLR 2020); the layers after the last block have
    the whole rate. 1 is one rate for all."""
    bias_correction: bool = False
    """Adam's correction of the moments' start at zero (lamb); off in the DAT paper."""
    trust_coefficient: Positive | None = None
    """Factor of every trust ratio; None for the published 1 (lamb) or 0.001 (lars)."""
    min_weight_norm: NonNegative = 0.0
    """Weight norms below it count as it in the trust ratio."""
    max_weight_norm: Positive | None = 10.0
    """Weight norms above it count as it in the trust ratio; None for no bound. 10 is
    the DAT paper's, for lamb; the default of lars is None."""
    adapt_vectors: bool = True
    """Trust ratios for biases and normalisation parameters too; else 1 for them."""
    decay_vectors: bool = True
    """Weight decay for biases and normalisation parameters too."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_named_optimizers_defaults(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        own = PUBLISHED.get(str(tree.get("name")), {})
        return {**own, **tree}


class ScheduleConfig(Section):
    """The learning rate as a pure function of the step."""

    name: Literal["constant", "cosine", "multistep", "cyclic"] = "cosine"
    """The shape after the warm-up."""
    warmup_epochs: NonNegative = 1.0
    """Epochs of linear warm-up, part of the run's epochs."""
    milestones: Annotated[tuple[Natural, ...], FromList] = ()
    """Epochs, counted from the run's start, at which multistep multiplies by gamma."""
    gamma: Positive = 0.1
    """The factor of multistep."""
    peak: Share = 0.4
    """Where cyclic reaches its highest rate: a share of the steps after the warm-up."""
    final: Share = 0.0
    """Where cosine and cyclic end: a share of the learning rate."""
