"""What travels between workers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dathvd.config.base import Count, Section


class CompressionConfig(Section):
    """A codec of ``dathvd.Compression`` and its exchange."""

    name: Literal[
        "none", "fp16", "bf16", "sign", "topk", "int8", "int4", "powersgd", "paper"
    ] = "none"
    """The codec of the gradients."""
    density: Annotated[float, Field(gt=0, le=1)] = 0.01
    """The share of the values that topk sends."""
    rank: Count = 2
    """The rank of powersgd's factors."""
    error_feedback: bool | None = None
    """Whether what a codec loses is added to the next step's gradient.
    Null is the codec's own default."""
