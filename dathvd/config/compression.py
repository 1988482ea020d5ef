"""What travels between workers."""

from __future__ import annotations

from typing import Literal

from dathvd.config.base import Section


class CompressionConfig(Section):
    """A codec of ``dathvd.Compression`` and its exchange."""

    name: Literal["none", "fp16"] = "none"
    """The codec of the gradients."""
