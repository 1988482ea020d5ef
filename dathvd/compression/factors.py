"""The interface of codecs that send factors of whole matrices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from dathvd.compression.base import Compressor


class Factors(ABC):
    """The matrices of one bucket and their factors, kept from step to step.

    All vectors are flat float32, the matrices one after another. ``FactorCompressor``
    tells the order of calls.
    """

    rank: int
    """Columns of each factor."""
    shapes: Sequence[tuple[int, int]]
    """Rows and columns of the matrices."""

    @abstractmethod
    def project(self, matrices: Tensor) -> Tensor:
        """The left factors of the matrices, to be averaged in place."""

    @abstractmethod
    def back_project(self, matrices: Tensor, left: Tensor) -> Tensor:
        """The right factors for the averaged left ones, to be averaged in place."""

    @abstractmethod
    def residual(self, matrices: Tensor, out: Tensor) -> None:
        """Write what this worker's own factors lose; before the right ones' average."""

    @abstractmethod
    def reconstruct(self, out: Tensor) -> None:
        """Write the products of the averaged factors."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """What the next step starts from, equal on all ranks."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore ``state_dict``."""


class FactorCompressor(Compressor):
    """A codec that an exchange drives by the factors of whole matrices.

    In each step the exchange calls, with M the flat gradient plus residual::

        left = factors.project(M)             then averages left over the workers
        right = factors.back_project(M, left)
        factors.residual(M, out)              then averages right over the workers
        factors.reconstruct(out)
    """

    @abstractmethod
    def factors(
        self,
        shapes: Sequence[tuple[int, int]],
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> Factors:
        """The state of one bucket: matrices of these shapes, one after another.

        Args:
            shapes: rows and columns of each.
            seed: of the first factors; the same on all ranks.
            device: where gradients are.

        Raises:
            UserError: a matrix does not suit the codec.
        """
