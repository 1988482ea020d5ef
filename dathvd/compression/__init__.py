"""Gradient codecs: what a gradient is turned into before it travels."""

from dathvd.compression.base import Compressor, Context, Exchange, Payload
from dathvd.compression.factors import FactorCompressor, Factors
from dathvd.compression.registry import (
    COMPRESSORS,
    Compression,
    as_compressor,
    build_compressor,
)

__all__ = [
    "COMPRESSORS",
    "Compression",
    "Compressor",
    "Context",
    "Exchange",
    "FactorCompressor",
    "Factors",
    "Payload",
    "as_compressor",
    "build_compressor",
]
