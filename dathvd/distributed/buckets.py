"""Which gradients travel together.

A bucket is a flat tensor that holds the gradients of several parameters. Buckets follow
the parameters in reverse, the order in which backward yields their gradients, so that
the first buckets are full, and travel, while backward goes on. The plan is a pure
function of the parameter list: every rank makes the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DEFAULT_BUCKET_BYTES = 25 * 2**20
DEFAULT_MIN_VALUES = 1024

Kind = tuple[bool, torch.dtype, torch.device]


@dataclass(frozen=True)
class Slot:
    """One parameter's place in its bucket, in values."""

    name: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def num_values(self) -> int:
        """Number of values of the parameter."""
        return torch.Size(self.shape).numel()

    @property
    def matrix(self) -> tuple[int, int]:
        """The parameter as a matrix: rows (its first dimension) and columns."""
        return matrix_shape(self.shape)

    def view(self, flat: Tensor) -> Tensor:
        """The parameter's part of ``flat``, in the parameter's shape and layout."""
        start = flat.storage_offset() + self.offset
        return flat.as_strided(self.shape, self.stride, start)


@dataclass(frozen=True)
class Bucket:
    """Gradients that travel as one flat tensor."""

    index: int
    compressed: bool
    """Whether the codec applies; if not, Horovod allreduces the values as they are."""
    dtype: torch.dtype
    device: torch.device
    slots: tuple[Slot, ...]

    @property
    def num_values(self) -> int:
        """Number of values of all the bucket's parameters."""
        return sum(slot.num_values for slot in self.slots)


def plan_buckets(
    parameters: Iterable[tuple[str, Tensor]],
    bucket_bytes: int = DEFAULT_BUCKET_BYTES,
    min_values: int = DEFAULT_MIN_VALUES,
    suits: Callable[[tuple[int, int]], bool] = lambda matrix: True,
) -> tuple[Bucket, ...]:
    """Cut the parameters into buckets, last parameter first.

    A tensor of one dimension (a bias, a norm), one of fewer than ``min_values`` values,
    one that is not float32 and one that does not suit the codec goes to an uncompressed
    bucket of its type. A parameter is never cut: one that is larger than a bucket has a
    bucket of its own.

    Args:
        parameters: names and parameters in the model's order; frozen ones are left out.
        bucket_bytes: a bucket is closed when its next parameter would make it larger.
        min_values: size from which a tensor of two or more dimensions is compressed.
        suits: whether the codec is of use for a tensor, told its shape as a matrix.
    """
    open_slots: dict[Kind, list[Slot]] = {}
    buckets: list[Bucket] = []

    def close(key: Kind) -> None:
        buckets.append(Bucket(len(buckets), *key, tuple(open_slots.pop(key))))

    for name, parameter in reversed(list(parameters)):
        if not parameter.requires_grad or parameter.numel() == 0:
            continue
        key = _kind(parameter, min_values, suits)
        filled = _end(open_slots.get(key, ()))
        if (filled + parameter.numel()) * key[1].itemsize > bucket_bytes and filled:
            # the small tensors seen so far leave with it, not at the end of backward
            for other in list(open_slots):
                close(other)
            filled = 0
        slot = Slot(name, filled, tuple(parameter.shape), _layout(parameter))
        open_slots.setdefault(key, []).append(slot)
    for key in list(open_slots):
        close(key)
    return tuple(buckets)


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """A tensor's first dimension, and the product of the others."""
    return shape[0], torch.Size(shape[1:]).numel()


def _kind(
    parameter: Tensor, min_values: int, suits: Callable[[tuple[int, int]], bool]
) -> Kind:
    compressed = (
        parameter.dtype == torch.float32
        and parameter.dim() > 1
        and parameter.numel() >= min_values
        and suits(matrix_shape(parameter.shape))
    )
    # Horovod has no bfloat16: those gradients travel as float32
    wide = parameter.dtype == torch.bfloat16
    dtype = torch.float32 if wide else parameter.dtype
    return compressed, dtype, parameter.device


def _end(slots: Sequence[Slot]) -> int:
    return slots[-1].offset + slots[-1].num_values if slots else 0


def _layout(parameter: Tensor) -> tuple[int, ...]:
    """The parameter's strides where they are dense with rows outermost.

    A channels-last weight keeps its layout, so that its gradient is copied as it lies
    in memory, and is still a matrix of ``shape[0]`` rows in its bucket.
    """
    contiguous = torch.empty(parameter.shape, device="meta").stride()
    strides = parameter.stride()
    wide = [dim for dim, size in enumerate(parameter.shape) if size > 1]
    outermost_first = sorted(wide, key=lambda dim: (-strides[dim], dim))
    expected = parameter.numel()
    for dim in outermost_first:
        expected //= parameter.shape[dim]
        if strides[dim] != expected:
            return contiguous
    return strides if outermost_first[:1] == wide[:1] else contiguous


def fingerprint(buckets: Iterable[Bucket]) -> str:
    """A hash of names, shapes, layouts, types and cuts, equal on ranks that agree."""
    text = repr([(b.compressed, str(b.dtype), b.slots) for b in buckets])
    return hashlib.sha256(text.encode()).hexdigest()


def chunk_cuts(num_values: int, size: int, block: int) -> list[int]:
    """The ``size + 1`` places at which a bucket is cut, whole blocks to a worker.

    Chunks differ by one block at most, apart from a last block that is not full.
    """
    blocks = -(-num_values // block)
    return [min(blocks * rank // size * block, num_values) for rank in range(size + 1)]
