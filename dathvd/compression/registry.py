"""The codecs by name, and how a config becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dathvd.components import CODECS
from dathvd.compression.base import Compressor
from dathvd.errors import UserError, choose

if TYPE_CHECKING:
    from dathvd.config.compression import CompressionConfig

COMPRESSORS: Mapping[str, type[Compressor]] = CODECS
"""Classes of codecs by name; their places are in ``dathvd.components``."""


class _ByName(type):
    """Makes the registered codecs attributes of a class."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return choose("compression", name, COMPRESSORS)
        except UserError as error:
            raise AttributeError(str(error)) from None

    def __dir__(cls) -> list[str]:
        return [*super().__dir__(), *COMPRESSORS]


class Compression(metaclass=_ByName):
    """The codecs, as ``hvd.Compression`` has its own; each is a class.

    ``Compression.sign`` and ``Compression.sign()`` are both taken wherever a codec is
    asked for; options go into the call: ``Compression.topk(density=0.01)``.
    """


def build_compressor(config: CompressionConfig) -> Compressor:
    """The codec that a config describes.

    Raises:
        UserError: it lies elsewhere and cannot be imported, or an option is out of its
            range.
    """
    compressor: Compressor = CODECS.build(config, error_feedback=config.error_feedback)
    return compressor


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
