"""What travels between workers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dathvd.components import CODECS
from dathvd.config.base import ComponentSection, Count, Positive, Share, named_in


class CompressionConfig(ComponentSection):
    """A codec of ``dathvd.Compression`` and its exchange."""

    name: Annotated[str, named_in(CODECS)] = "none"
    """The codec of the gradients: none, fp16, bf16, sign, topk, int8, int4, powersgd,
    paper, or the place of another one, package.module:attribute."""
    density: Annotated[float, Field(gt=0, le=1)] = 0.01
    """The share of the values that topk sends."""
    rank: Count = 2
    """The rank of powersgd's factors."""
    error_feedback: bool | None = None
    """Whether what a codec loses is added to the next step's gradient.
    Null is the codec's own default."""
    warmup: Share | None = None
    """The share of the run's steps, at its start, whose gradients travel uncompressed.
    Null is the codec's own default: a quarter for sign and topk, a tenth for
    powersgd, else none."""
    exchange: Literal["auto", "allreduce", "allgather", "two-way", "hierarchical"] = (
        "auto"
    )
    """Which collectives carry the payloads; auto depends on the codec, the number of
    workers and their placement on nodes, and is printed at the start with its reason.
    hierarchical sends plain gradients inside a node and compressed ones between."""
    inside_nodes: Literal["fp32", "bf16"] = "fp32"
    """The type in which the hierarchical exchange sends gradients inside a node."""
    bucket_megabytes: Positive = 25.0
    """Size of the buckets that travel one at a time, before compression."""
    max_skipped_in_a_row: Count = 10
    """Steps in a row with gradients that are not finite, after which the job ends."""
