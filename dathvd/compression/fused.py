"""Codecs with fused loops: one pass over the gradient, in C++ or in Triton."""

from __future__ import annotations

import functools
import importlib.util
from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from dathvd.compression import kernels
from dathvd.compression.base import Compressor, inverse


class FusedCompressor(Compressor):
    """A codec that chooses its path by the tensor's device; all give the same bits.

    On a CPU it is the compiled kernels, on a GPU the Triton kernels where the codec has
    some. ``pack`` and ``unpack``, in torch operations, serve everything else.
    """

    kernel: ClassVar[str]
    """The prefix of the kernels' names."""
    on_gpu: ClassVar[bool] = False
    """Whether there are Triton kernels of that name."""

    @abstractmethod
    def unpack(self, wire: Tensor, out: Tensor) -> None:
        """``decode`` in torch operations."""

    def encode_options(self, count: int, seed: int, offset: int) -> tuple[int, ...]:
        """The numbers that the encoding kernel takes besides its tensors."""
        return ()

    def decode_options(self, count: int) -> tuple[int, ...]:
        """The numbers that the decoding kernel takes besides its tensors."""
        return ()

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
        count = values.numel()
        self._check(wire.shape[-1], count)
        for other in (residual, new_residual):
            if other is not None and other.numel() != count:
                raise ValueError(f"{count} values, but a residual of {other.numel()}")
        if count == 0:
            return
        options = self.encode_options(count, seed, offset)
        tensors = (values, residual, wire, new_residual)
        if kernels.takes(values):
            kernels.call(f"{self.kernel}_encode", *tensors, count, scale, *options)
        elif self._uses_triton(values):
            from dathvd.compression import triton_calls

            triton_calls.encode(self.kernel, *tensors, scale, *options)
        else:
            super().encode(values, residual, wire, new_residual, seed, scale, offset)

    def decode(self, wire: Tensor, out: Tensor) -> None:
        if kernels.takes(out) or self._uses_triton(out):
            self.decode_mean(wire[None], out)
            return
        self._check(wire.shape[-1], out.numel())
        if out.numel():
            self.unpack(wire, out)

    def decode_mean(self, wires: Tensor, out: Tensor) -> None:
        workers, count = len(wires), out.numel()
        self._check(wires.shape[-1], count)
        factor = inverse(workers)
        options = self.decode_options(count)
        if kernels.takes(out):
            name, stride = f"{self.kernel}_decode", wires.stride(0)
            kernels.call(name, wires, stride, workers, out, count, factor, *options)
        elif self._uses_triton(out):
            from dathvd.compression import triton_calls

            triton_calls.decode_mean(self.kernel, wires, out, factor, *options)
        else:
            super().decode_mean(wires, out)

    def _check(self, num_bytes: int, count: int) -> None:
        """Kernels write where they are told to: sizes must fit."""
        expected = self.payload_bytes(count)
        if num_bytes != expected:
            raise ValueError(
                f"{self.name}: the payload of {count} values takes {expected} bytes,"
                f" not {num_bytes}"
            )

    def _uses_triton(self, tensor: Tensor) -> bool:
        return self.on_gpu and tensor.is_cuda and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
