"""Encoding and decoding on the device, beside a copy of the same vector there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from dathvd.benchmark.gpu.clock import in_turns
from dathvd.compression import COMPRESSORS, Compressor

CODECS = ("fp16", "bf16", "int8", "int4", "sign", "topk")


@dataclass(frozen=True)
class DeviceCodecRow:
    """One codec; times are medians of rounds in which all took turns."""

    codec: str
    num_values: int
    copy_microseconds: float
    """Of the float32 vector within the device's memory."""
    encode_microseconds: float
    """With error feedback where the codec uses it."""
    decode_microseconds: float
    copies: float
    """Encoding and decoding over the copy."""

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


def measure_codecs(
    device: torch.device, num_values: int, *, rounds: int = 7, repeats: int = 20
) -> Iterator[DeviceCodecRow]:
    """Rows of all codecs that encode a bucket in one call."""
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(num_values, generator=generator).to(device)
    target = torch.empty_like(gradient)
    subjects = {"copy": lambda: target.copy_(gradient)}
    for name in CODECS:
        subjects |= _subjects(COMPRESSORS[name](), gradient)
    times = in_turns(subjects, device, warmup=3, rounds=rounds, repeats=repeats)
    medians = {name: 1e6 * median(values) for name, values in times.items()}
    for name in CODECS:
        encode, decode = medians[f"{name} encode"], medians[f"{name} decode"]
        yield DeviceCodecRow(
            codec=name,
            num_values=num_values,
            copy_microseconds=medians["copy"],
            encode_microseconds=encode,
            decode_microseconds=decode,
            copies=(encode + decode) / medians["copy"],
        )


def _subjects(codec: Compressor, gradient: torch.Tensor) -> dict[str, Any]:
    """As in the exchanges; only the new residual goes to a place of its own, so that
    the next round encodes the same values."""
    size = codec.payload_bytes(gradient.numel())
    wire = torch.empty(size, dtype=torch.uint8, device=gradient.device)
    residual = lost = None
    if codec.error_feedback:
        residual, lost = 0.5 * gradient.flip(0), torch.empty_like(gradient)
    out = torch.empty_like(gradient)
    return {
        f"{codec.name} encode": lambda: codec.encode(gradient, residual, wire, lost, 7),
        f"{codec.name} decode": lambda: codec.decode(wire, out),
    }
