"""The codecs by name, and how a config becomes one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dathvd.compression.base import Compressor
from dathvd.compression.casts import BF16, FP16, NoCompression
from dathvd.compression.paper import Paper
from dathvd.compression.powersgd import PowerSGD
from dathvd.compression.quantize import Int4, Int8
from dathvd.compression.sign import Sign
from dathvd.compression.topk import TopK
from dathvd.errors import UserError, choose

if TYPE_CHECKING:
    from dathvd.config.compression import CompressionConfig


class Compression:
    """The codecs, as ``hvd.Compression`` has its own; each is a class.

    ``Compression.sign`` and ``Compression.sign()`` are both taken wherever a codec is
    asked for; options go into the call: ``Compression.topk(density=0.01)``.
    """

    none = NoCompression
    fp16 = FP16
    bf16 = BF16
    sign = Sign
    topk = TopK
    int8 = Int8
    int4 = Int4
    powersgd = PowerSGD
    paper = Paper


COMPRESSORS: dict[str, type[Compressor]] = {
    name: codec
    for name, codec in vars(Compression).items()
    if isinstance(codec, type) and issubclass(codec, Compressor)
}


def build_compressor(config: CompressionConfig) -> Compressor:
    """The codec that a config describes.

    Raises:
        UserError: an unknown name, or an option out of its range.
    """
    options: dict[str, Any] = {"error_feedback": config.error_feedback}
    if config.name == "topk":
        options["density"] = config.density
    if config.name == "powersgd":
        options["rank"] = config.rank
    return choose("compression.name", config.name, COMPRESSORS)(**options)


def as_compressor(compression: Compressor | type[Compressor]) -> Compressor:
    """An instance, from an instance or from a class with its default options.

    Raises:
        UserError: it is neither, such as a compressor of ``hvd.Compression``.
    """
    if isinstance(compression, Compressor):
        return compression
    if isinstance(compression, type) and issubclass(compression, Compressor):
        return compression()
    raise UserError(
        f"compression: expected a codec of dathvd.Compression, got {compression!r}"
    )
