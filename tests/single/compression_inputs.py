"""Vectors that codecs must cope with, and what the tests of codecs share."""

from __future__ import annotations

import torch
from torch import Tensor

from dathvd.compression import COMPRESSORS, Compression, Compressor

SIZES = (1, 2, 511, 512, 513, 9001, 16383, 16384, 16385, 33000)


def codecs() -> dict[str, Compressor]:
    """Every registered codec, with options that matter, by the name of a test."""
    variants: dict[str, Compressor] = {
        "topk-all": Compression.topk(density=1.0),
        "topk-third": Compression.topk(density=0.3),
        "powersgd-1": Compression.powersgd(rank=1),
    }
    return {name: codec() for name, codec in COMPRESSORS.items()} | variants


def vector(kind: str, size: int, seed: int = 0) -> Tensor:
    """A float32 vector of one of ``KINDS``."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(size, generator=generator)
    uniform = torch.rand(size, generator=generator)
    return {
        "normal": normal,
        "constant": torch.full((size,), -0.37),
        "zero": torch.zeros(size),
        "negative zero": torch.full((size,), -0.0),
        "denormal": normal * 1e-40,
        "tiny": normal * 1e-33,
        "huge": normal * 1e30,
        "mixed sign": torch.where(uniform < 0.5, -0.25, 0.75),
        "heavy tail": normal / (uniform + 1e-4) ** 3,
        "ties": torch.randint(-3, 4, (size,), generator=generator).float(),
        "one spike": torch.zeros(size).index_fill_(0, torch.tensor([size // 2]), 7.0),
        "mixed scale": normal * torch.logspace(-20, 20, size),
    }[kind]


KINDS = (
    "normal",
    "constant",
    "zero",
    "negative zero",
    "denormal",
    "tiny",
    "huge",
    "mixed sign",
    "heavy tail",
    "ties",
    "one spike",
    "mixed scale",
)


def encoded(
    codec: Compressor,
    values: Tensor,
    residual: Tensor | None = None,
    seed: int = 0,
    scale: float = 1.0,
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """The wire and the new residual."""
    wire = torch.full((codec.payload_bytes(len(values)),), 0xA5, dtype=torch.uint8)
    lost = torch.empty_like(values)
    codec.encode(values, residual, wire, lost, seed, scale, offset)
    return wire, lost


def decoded(codec: Compressor, wire: Tensor, size: int) -> Tensor:
    out = torch.full((size,), torch.nan)
    codec.decode(wire, out)
    return out
