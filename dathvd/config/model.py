"""The network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dathvd.components import NETWORKS
from dathvd.config.base import ComponentSection, Count, FromList, named_in

Channels = Annotated[tuple[float, ...], FromList, Field(min_length=1)]
Scales = Annotated[
    tuple[Annotated[float, Field(gt=0)], ...], FromList, Field(min_length=1)
]


class ModelConfig(ComponentSection):
    """A network from images in [0, 1] to logits."""

    name: Annotated[str, named_in(NETWORKS)] = "small_cnn"
    """A name of ``dathvd.models.MODELS``, or the place of another network,
    package.module:attribute."""
    width: Count = 32
    """Channels of the first convolution of the small networks."""
    normalization: Literal["none", "batch", "group"] | None = None
    """The normalisation layers; None for the network's own (none in the small_cnn and
    the mlp, batch in residual networks)."""
    activation: Literal["relu", "silu", "softplus", "gelu"] | None = None
    """The activation function; None for the network's own (relu; gelu in ConvNeXt and
    transformers, silu in ra_wide_resnet_70_16)."""
    mean: Channels | None = None
    """Per-channel mean that the first layer subtracts; None for no such layer."""
    std: Scales | None = None
    """Per-channel standard deviation that it divides by."""
    head: Literal["linear", "projection"] = "linear"
    """The last layer, or two with an activation between them, as contrastive
    pre-training wants; the rest of the network is called its trunk."""
    init: str | None = None
    """What the training starts from. A run or checkpoint folder, such as one of
    pre-training: its trunk is taken, and its head too where it is a classifier of as
    many classes. Or a file of weights (a state_dict in .pt, .pth, .bin, .ckpt, .tar or
    .safetensors), or the name of torchvision's weights whose file torch's cache holds,
    such as ResNet50_Weights.IMAGENET1K_V2: what has the same name and shape is taken,
    and the first lines of the run say what did not fit."""
    init_keys: dict[str, str] = {}
    """Beginnings of the names in a file of weights, and what this network has in their
    place, such as {backbone.: ""}. Beginnings that wrappers put before all names, such
    as module., are found without it."""
    init_partial: bool = False
    """Whether a file of weights may leave a part of the trunk as it is at random."""
    init_weights: Literal["raw", "ema"] = "raw"
    """Which weights of that run are taken: the last step's, or their average (of
    several the best one)."""
    init_mode: Literal["full", "linear"] = "full"
    """full trains all weights; linear the head alone, on a trunk whose weights and
    statistics stay as they are."""

    @model_validator(mode="after")
    def _what_is_taken_needs_a_run(self) -> ModelConfig:
        if self.init_mode == "linear" and self.init is None:
            raise ValueError(
                "init_mode linear needs a trained trunk: set init to a run"
            )
        if self.init_weights == "ema" and self.init is None:
            raise ValueError("init_weights ema are another run's: set init to it")
        if self.init is None and (self.init_keys or self.init_partial):
            raise ValueError("init_keys and init_partial belong to a file: set init")
        return self
