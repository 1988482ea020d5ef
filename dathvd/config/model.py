"""The network."""

from __future__ import annotations

from typing import Annotated, Literal

from dathvd.config.base import Count, FromList, Section


class ModelConfig(Section):
    """A network from images in [0, 1] to logits."""

    name: str = "small_cnn"
    """A name of ``dathvd.models.MODELS``."""
    width: Count = 32
    """Channels of the first convolution of the small networks."""
    normalization: Literal["none", "batch", "group"] = "none"
    """The normalisation layers of the small networks."""
    activation: Literal["relu", "silu", "softplus"] = "relu"
    """The activation function."""
    mean: Annotated[tuple[float, ...] | None, FromList] = None
    """Per-channel mean that the first layer subtracts; None for no such layer."""
    std: Annotated[tuple[float, ...] | None, FromList] = None
    """Per-channel standard deviation that it divides by."""
