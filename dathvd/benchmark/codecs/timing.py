"""Encoding and decoding, timed beside a memcpy of the same vector."""

from __future__ import annotations

import ctypes
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from dathvd.benchmark.codecs.gradient import Gradient
from dathvd.benchmark.medians import middle
from dathvd.compression import Compressor, FactorCompressor, kernels
from dathvd.compression.fused import FusedCompressor


@dataclass(frozen=True)
class CodecRow:
    """One codec on one gradient; times are medians over rounds."""

    codec: str
    num_values: int
    memcpy_ms: float
    """Milliseconds of copying the float32 vector, in the same rounds and thread. It is
    copied before every codec, and the median of a round's copies counts for all."""
    encode_ms: float
    """Milliseconds of encoding, with error feedback where the codec uses it."""
    decode_ms: float
    ratio: float
    """Median over rounds of (encode + decode) / memcpy."""
    spread: float
    """Half the distance between the quartiles of the ratio."""
    bytes: int
    """Bytes of one payload."""
    error_energy: float
    """‖Q(g) − g‖² / ‖g‖², without any residual."""
    error_feedback: bool
    threads: int
    path: str
    """avx512, avx2 or plain for the compiled loops; torch for its operations."""
    gradient: str

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


class Subject(ABC):
    """A codec with its buffers, ready to encode one gradient again and again.

    As in the exchanges, the new residual takes the place of the values it came from.
    """

    def __init__(self, codec: Compressor, gradient: Gradient) -> None:
        self.codec = codec
        self.gradient = gradient.values
        self.values = gradient.values.clone()
        self.out = torch.empty_like(self.values)
        self.residual: Tensor | None = None
        if codec.error_feedback:
            self.residual = torch.randn_like(self.values).mul_(self.gradient.std())

    def refill(self) -> None:
        """Put the gradient back to where the last round left a residual."""
        self.values.copy_(self.gradient)

    @abstractmethod
    def encode(self, residual: Tensor | None) -> None:
        """Encode gradient plus residual into the payload, and keep the new residual."""

    @abstractmethod
    def decode(self) -> None:
        """Decode the payload into ``out``."""

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Bytes of the payload."""

    def error_energy(self) -> float:
        """‖Q(g) − g‖² / ‖g‖²."""
        self.refill()
        self.encode(None)
        self.decode()
        norm = self.gradient.double().square().sum()
        return float((self.out - self.gradient).double().square().sum() / norm)


class Vectors(Subject):
    """A codec of flat vectors; one that needs whole tensors gets them one by one."""

    def __init__(self, codec: Compressor, gradient: Gradient) -> None:
        super().__init__(codec, gradient)
        sizes = [rows * cols for rows, cols in gradient.shapes]
        self.sizes = sizes if codec.per_tensor else [sum(sizes)]
        self.wires = [
            torch.empty(codec.payload_bytes(size), dtype=torch.uint8)
            for size in self.sizes
        ]

    def encode(self, residual: Tensor | None) -> None:
        kept = self.values if residual is not None else None
        pieces = zip(self.values.split(self.sizes), self.wires)
        for index, (values, wire) in enumerate(pieces):
            part = _piece(residual, self.sizes, index)
            self.codec.encode(
                values, part, wire, _piece(kept, self.sizes, index), index
            )

    def decode(self) -> None:
        for out, wire in zip(self.out.split(self.sizes), self.wires):
            self.codec.decode(wire, out)

    @property
    def num_bytes(self) -> int:
        return sum(wire.numel() for wire in self.wires)


class LowRank(Subject):
    """Factors of matrices, started from the step before where there is one."""

    def __init__(self, codec: FactorCompressor, gradient: Gradient) -> None:
        super().__init__(codec, gradient)
        self.factors = codec.factors(gradient.shapes)
        if gradient.previous is not None:
            matrices = gradient.previous
            self.factors.back_project(matrices, self.factors.project(matrices))
            self.factors.reconstruct(self.out)
        self.first_energy = super().error_energy()

    def encode(self, residual: Tensor | None) -> None:
        if residual is not None:
            self.values.add_(residual)
        left = self.factors.project(self.values)
        self.factors.back_project(self.values, left)
        if residual is not None:
            self.factors.residual(self.values, self.values)

    def decode(self) -> None:
        self.factors.reconstruct(self.out)

    @property
    def num_bytes(self) -> int:
        return sum(4 * self.factors.rank * sum(shape) for shape in self.factors.shapes)

    def error_energy(self) -> float:
        # later rounds start from this very gradient's factors, which would flatter it
        return self.first_energy


def measure_codecs(
    codecs: list[Compressor], gradient: Gradient, rounds: int
) -> list[CodecRow]:
    """Time the codecs in turn, ``rounds`` times, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        subjects = [_subject(codec, gradient) for codec in codecs]
        times: list[list[tuple[float, float]]] = [[] for _ in subjects]
        target = torch.empty_like(gradient.values)
        copies: list[float] = []
        for _ in range(rounds + 1):
            before_each = []
            for subject, record in zip(subjects, times):
                before_each.append(_copy_milliseconds(gradient.values, target))
                record.append(_one_round(subject))
            # A single copy's time depends on what the codec before left in the caches.
            copies.append(median(before_each))
        return [
            _row(subject, copies[1:], record[1:], gradient)
            for subject, record in zip(subjects, times)
        ]
    finally:
        torch.set_num_threads(before)


def error_energy(codec: Compressor, gradient: Gradient) -> float:
    """‖Q(g) − g‖² / ‖g‖² of one gradient, without any residual."""
    return _subject(codec, gradient).error_energy()


def _subject(codec: Compressor, gradient: Gradient) -> Subject:
    if isinstance(codec, FactorCompressor):
        return LowRank(codec, gradient)
    return Vectors(codec, gradient)


def _copy_milliseconds(source: Tensor, target: Tensor) -> float:
    """Milliseconds of a memcpy."""
    size = 4 * source.numel()
    return _milliseconds(
        lambda: ctypes.memmove(target.data_ptr(), source.data_ptr(), size)
    )


def _one_round(subject: Subject) -> tuple[float, float]:
    """Milliseconds of encoding and of decoding."""
    subject.refill()
    encode = _milliseconds(lambda: subject.encode(subject.residual))
    return encode, _milliseconds(subject.decode)


def _milliseconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def _row(
    subject: Subject,
    copies: list[float],
    times: list[tuple[float, float]],
    gradient: Gradient,
) -> CodecRow:
    encodes, decodes = zip(*times)
    ratios = [sum(spent) / copy for copy, spent in zip(copies, times)]
    ratio, ratio_spread = middle(ratios)
    fused = isinstance(subject.codec, FusedCompressor)
    return CodecRow(
        codec=subject.codec.name,
        num_values=gradient.values.numel(),
        memcpy_ms=median(copies),
        encode_ms=median(encodes),
        decode_ms=median(decodes),
        ratio=ratio,
        spread=ratio_spread,
        bytes=subject.num_bytes,
        error_energy=subject.error_energy(),
        error_feedback=subject.codec.error_feedback,
        threads=1,
        path=(kernels.target() or "torch") if fused else "torch",
        gradient=gradient.description,
    )


def _piece(whole: Tensor | None, sizes: list[int], index: int) -> Tensor | None:
    return None if whole is None else whole.split(sizes)[index]
