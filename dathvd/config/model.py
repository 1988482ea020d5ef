"""The network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dathvd.config.base import Count, Section

Channels = Annotated[tuple[float, ...], Field(min_length=1)]
Scales = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


class ModelConfig(Section):
    """A network from images in [0, 1] to logits."""

    name: str = "small_cnn"
    """A name of ``dathvd.models.MODELS``."""
    width: Count = 32
    """Channels of the first convolution of the small networks."""
    normalization: Literal["none", "batch", "group"] | None = None
    """The normalisation layers; None for the network's own (none in the small_cnn and
    the mlp, batch in residual networks)."""
    activation: Literal["relu", "silu", "softplus", "gelu"] | None = None
    """The activation function; None for the network's own (relu, gelu in ConvNeXt)."""
    mean: Channels | None = None
    """Per-channel mean that the first layer subtracts; None for no such layer."""
    std: Scales | None = None
    """Per-channel standard deviation that it divides by."""
