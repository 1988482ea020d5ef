"""The interface of every codec: a pure pair, and its fused form for the exchanges.

A codec knows nothing of workers: which collective carries its payloads, and who keeps
which residual, is decided in ``dathvd.distributed``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dathvd.errors import UserError

Exchange = Literal["allreduce", "allgather", "two-way"]
HIERARCHICAL = "hierarchical"
"""The exchange that is plain inside a node, and two-way between nodes."""
Payload = tuple[Tensor, ...]
Context = torch.Size


class Compressor(ABC):
    """A codec of flat float32 vectors. Subclass it to add one.

    A subclass defines ``payload_bytes``, ``pack`` and ``decode``; the
    other methods follow from them, and may be overridden by fused forms.

    Promises of every codec:

    * The payload's size depends on the number of values alone, and is a multiple of 4.
    * Conservation: ``new_residual`` is the float32 difference ``(values * scale +
      residual) - decoded``, so nothing is lost beyond that one rounding.
    * A non-finite value gives a payload that decodes to at least one non-finite value.
    * Equal arguments give equal payloads, on every rank and for any number of threads.
    * Blocks are independent (unless ``per_tensor``): the payload of a vector is the
      concatenation of the payloads of its pieces, cut at multiples of ``block``. An
      exchange may therefore encode a whole bucket once and send slices of the wire:
      piece ``[a, b)`` lies at ``wire[payload_bytes(a) : payload_bytes(b)]``.

    Args:
        error_feedback: what an exchange should do with the residual; None takes the
            codec's default.
    """

    name: ClassVar[str]
    """The codec's name in ``COMPRESSORS`` and in configs."""
    exchanges: ClassVar[tuple[Exchange, ...]]
    """The exchanges that can carry it, the best for many workers first."""
    error_feedback: bool = False
    """Whether exchanges keep what was lost and add it to the next step's gradient."""
    warmup: ClassVar[float] = 0.0
    """The share of a training run that should precede compression, see
    ``DistributedOptimizer(warmup_steps=...)``; for codecs that lose much of a step."""
    block: int = 8
    """Cuts of a vector into chunks must fall on multiples of it."""
    per_tensor: ClassVar[bool] = False
    """True where one call must see one whole tensor (no cuts, no common buckets)."""

    def __init__(self, *, error_feedback: bool | None = None) -> None:
        if error_feedback is not None:
            self.error_feedback = error_feedback

    def __repr__(self) -> str:
        return f"{type(self).__name__}(error_feedback={self.error_feedback})"

    def suits(self, matrix: tuple[int, int], exchange: str) -> bool:
        """Whether the codec is of use for a tensor, which goes uncompressed otherwise.

        Args:
            matrix: the tensor's first dimension, and the product of the others.
            exchange: what will carry the payloads.
        """
        return True

    @abstractmethod
    def payload_bytes(self, num_values: int) -> int:
        """The exact size of the payload of ``num_values`` values, in bytes."""

    @abstractmethod
    def pack(self, values: Tensor, wire: Tensor, seed: int, offset: int = 0) -> None:
        """Write the payload of float32 ``values [n]`` into uint8 ``wire``."""

    @abstractmethod
    def decode(self, wire: Tensor, out: Tensor) -> None:
        """Write the decoded payload into float32 ``out [n]``."""

    def encode(
        self,
        values: Tensor,
        residual: Tensor | None,
        wire: Tensor,
        new_residual: Tensor | None,
        seed: int = 0,
        scale: float = 1.0,
        offset: int = 0,
    ) -> None:
        """Write the payload of ``values * scale + residual``, and what it loses.

        Args:
            values: float32 ``[n]``, contiguous.
            residual: float32 ``[n]`` or None for zeros.
            wire: uint8 ``[payload_bytes(n)]``, contiguous, starts on 4 bytes' boundary;
                may be a slice of a larger buffer. All of it is written.
            new_residual: float32 ``[n]`` or None; takes ``(values * scale + residual) -
                decoded``. May be ``values`` or ``residual`` themselves, but must not
                overlap them otherwise.
            seed: of the stochastic codecs; any integer.
            scale: a finite float32 factor, such as 1 / batches accumulated.
            offset: the place of ``values[0]`` in a longer vector, a multiple of
                ``block``: stochastic codecs then draw as if that vector were encoded
                in one call.
        """
        corrected = values if scale == 1.0 else values * scale
        if residual is not None:
            corrected = corrected + residual
        self.pack(corrected, wire, seed, offset)
        if new_residual is not None:
            decoded = torch.empty_like(values)
            self.decode(wire, decoded)
            torch.sub(corrected, decoded, out=new_residual)

    def decode_mean(self, wires: Tensor, out: Tensor) -> None:
        """Write the float32 average of N decoded payloads into ``out [n]``.

        The sum runs over ``wires`` (uint8 ``[N, payload_bytes(n)]``, rows aligned to
        4 bytes) in the order of the rows, and is multiplied by float32(1 / N) at last.
        """
        self.decode(wires[0], out)
        if len(wires) > 1:
            decoded = torch.empty_like(out)
            for wire in wires[1:]:
                self.decode(wire, decoded)
                out.add_(decoded)
            out.mul_(inverse(len(wires)))

    def decodes_to_finite(self, wire: Tensor) -> bool:
        """Whether a payload tells, undecoded, that it decodes to finite values alone.

        False says nothing.
        """
        return False

    def compress(self, tensor: Tensor, seed: int = 0) -> tuple[Payload, Context]:
        """The payload of a tensor of any shape, and the context that stays behind."""
        values = tensor.detach().to(torch.float32).contiguous().view(-1)
        size = self.payload_bytes(values.numel())
        wire = torch.empty(size, dtype=torch.uint8, device=tensor.device)
        if values.numel():
            self.encode(values, None, wire, None, seed)
        return (wire,), tensor.shape

    def decompress(self, payload: Payload, context: Context) -> Tensor:
        """The float32 tensor, of the original's shape, that a payload stands for."""
        (wire,) = payload
        out = torch.empty(context.numel(), dtype=torch.float32, device=wire.device)
        if out.numel():
            self.decode(wire, out)
        return out.view(context)


def exchanges_of(codec: Compressor | type[Compressor]) -> tuple[str, ...]:
    """All exchanges that can carry a codec; with a two-way, also the hierarchical."""
    two_levels = (HIERARCHICAL,) if "two-way" in codec.exchanges else ()
    return (*codec.exchanges, *two_levels)


def inverse(count: int) -> float:
    """The factor of an average, float32(1 / count), the same on every path."""
    return float(torch.tensor(1.0 / count, dtype=torch.float32))


def num_blocks(num_values: int, block: int) -> int:
    """Blocks that hold ``num_values``; the last may be partly filled."""
    return -(-num_values // block)


def in_blocks(values: Tensor, block: int) -> Tensor:
    """``values [n]`` as ``[blocks, block]``, the last row filled with zeros."""
    missing = -values.numel() % block
    if missing:
        values = torch.nn.functional.pad(values, (0, missing))
    return values.view(-1, block)


def check_positive(name: str, value: float, highest: float) -> None:
    """Refuse an option outside ``(0, highest]``.

    Raises:
        UserError: it is outside, or is no number.
    """
    if not 0 < value <= highest:
        raise UserError(f"compression: {name} must be in (0, {highest:g}], got {value}")
