"""``powersgd``: low-rank factors of each matrix, which an allreduce can average."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from dathvd.compression.base import Exchange
from dathvd.compression.factors import FactorCompressor, Factors
from dathvd.compression.random_bits import BLOCK, uniforms
from dathvd.errors import UserError

_DEPENDENT = 1e-5
"""The share of its norm below which what is left of a column, once the parts along
earlier ones are taken off, counts as rounding."""


class PowerSGD(FactorCompressor):
    """One step of power iteration a step of training (Vogels et al., NeurIPS 2019).

    A matrix M ``[rows, cols]`` travels as P ``[rows, rank]`` and Q ``[cols, rank]``
    (both kept transposed, so that the products run at the speed of memory); each is
    linear in M while the other is fixed, so that allreduce averages them. Q is kept
    from step to step (warm start). The exchange asks for ``factors``, once per
    bucket, and then, in each step, with M the flat gradient plus residual::

        p = factors.project(M)               # P = M Q
        average p over the workers, in place (allreduce)
        q = factors.back_project(M, p)       # P orthonormal, Q = Mᵀ P
        factors.residual(M, out)             # M − P Qᵀ with this worker's own Q
        average q over the workers, in place (allreduce)
        factors.reconstruct(out)             # P Qᵀ; Q becomes the next step's start

    The mean over workers of ``M − residual`` is what ``reconstruct`` gives, so that no
    gradient is lost. Bytes a worker and step: 8·rank·Σ(rows + cols)·(N−1)/N.

    As a codec of flat vectors (``compress``, ``encode``) it folds n values into
    a nearly square matrix, with Q drawn from the seed: for tests and comparisons.

    Args:
        rank: columns of the factors, at least 1.
        error_feedback: see ``Compressor``.

    Raises:
        UserError: the rank is below 1.
    """

    name: ClassVar[str] = "powersgd"
    exchanges: ClassVar[tuple[Exchange, ...]] = ("allreduce",)
    error_feedback: bool = True
    warmup: ClassVar[float] = 0.1
    per_tensor: ClassVar[bool] = True

    def __init__(self, rank: int = 2, *, error_feedback: bool | None = None) -> None:
        super().__init__(error_feedback=error_feedback)
        if rank < 1:
            raise UserError(f"compression: rank must be at least 1, got {rank}")
        self.rank = rank

    def __repr__(self) -> str:
        return f"PowerSGD(rank={self.rank}, error_feedback={self.error_feedback})"

    def suits(self, matrix: tuple[int, int], exchange: str) -> bool:
        """Whether the factors exist, and are smaller than the matrix."""
        return self.rank <= min(matrix) and self.worthwhile(matrix)

    def worthwhile(self, shape: tuple[int, int]) -> bool:
        """Whether the factors of such a matrix are smaller than the matrix."""
        rows, cols = shape
        return self.rank * (rows + cols) < rows * cols

    def factors(
        self,
        shapes: Sequence[tuple[int, int]],
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> PowerFactors:
        """The state of one bucket: matrices of these shapes, one after another.

        The seed must be the same on all ranks. A tensor ``[out, in, h, w]`` is the
        matrix ``(out, in·h·w)``. Those not ``worthwhile`` go uncompressed.

        Raises:
            UserError: the rank exceeds a matrix's smaller side.
        """
        return PowerFactors(self.rank, shapes, seed, torch.device(device))

    def payload_bytes(self, num_values: int) -> int:
        rows, cols, rank = self._fold(num_values)
        return 4 * rank * (rows + cols)

    def pack(self, values: Tensor, wire: Tensor, seed: int, offset: int = 0) -> None:
        rows, cols, rank = self._fold(values.numel())
        matrix = torch.nn.functional.pad(values, (0, rows * cols - values.numel()))
        factors = PowerFactors(rank, [(rows, cols)], seed, values.device)
        left = factors.project(matrix)
        right = factors.back_project(matrix, left)
        torch.cat((left.view(-1), right.view(-1)), out=wire.view(torch.float32))

    def decode(self, wire: Tensor, out: Tensor) -> None:
        rows, cols, rank = self._fold(out.numel())
        left, right = wire.view(torch.float32).split((rank * rows, rank * cols))
        decoded = left.view(rank, rows).T @ right.view(rank, cols)
        out.copy_(decoded.view(-1)[: out.numel()])

    def _fold(self, num_values: int) -> tuple[int, int, int]:
        """Rows, columns and rank of the matrix that holds ``num_values``."""
        rows = math.isqrt(max(num_values - 1, 0)) + 1 if num_values else 0
        cols = -(-num_values // rows) if rows else 0
        return rows, cols, min(self.rank, rows, cols)


class PowerFactors(Factors):
    """Pᵀ ``[rank, Σ rows]`` and Qᵀ ``[rank, Σ cols]`` of one bucket's matrices.

    Made by ``PowerSGD.factors``, whose docstring tells the order of calls.
    """

    def __init__(
        self,
        rank: int,
        shapes: Sequence[tuple[int, int]],
        seed: int,
        device: torch.device,
    ) -> None:
        for rows, cols in shapes:
            if rank > min(rows, cols):
                raise UserError(
                    f"compression: rank {rank} exceeds the smaller side of a"
                    f" {rows}×{cols} matrix; send such tensors uncompressed"
                )
        self.rank = rank
        self.shapes = list(shapes)
        self.num_values = sum(rows * cols for rows, cols in shapes)
        self._rows = [rows for rows, _ in shapes]
        self._cols = [cols for _, cols in shapes]
        self._padded_rows = _padded_places(self._rows, device)
        self._owner_of_col = torch.repeat_interleave(
            torch.arange(len(shapes)), torch.tensor(self._cols)
        ).to(device)
        count = sum(self._cols) * rank
        draws = uniforms(seed, 0, -(-count // BLOCK), device).view(-1)[:count]
        self._start = draws.sub_(0.5).view(rank, -1)
        self._left = torch.zeros(rank, sum(self._rows), device=device)
        self._right = torch.zeros_like(self._start)

    def project(self, matrices: Tensor) -> Tensor:
        """Pᵀ = (M Q)ᵀ of flat ``matrices [num_values]``, to be averaged in place."""
        for matrix, start, left in self._parts(matrices, self._start, self._left):
            torch.mm(start, matrix.T, out=left)
        return self._left

    def back_project(self, matrices: Tensor, left: Tensor) -> Tensor:
        """Make the averaged P orthonormal in place; Qᵀ = Pᵀ M, to be averaged, too."""
        self._left = left.copy_(self._orthonormal(left))
        for matrix, right, left in self._parts(matrices, self._right, self._left):
            torch.mm(left, matrix, out=right)
        return self._right

    def residual(self, matrices: Tensor, out: Tensor) -> None:
        """``M − P Qᵀ`` into ``out`` (may be ``matrices``); before Q is averaged."""
        if out is not matrices:
            out.copy_(matrices)
        for part, right, left in self._parts(out, self._right, self._left):
            part.addmm_(left.T, right, alpha=-1)

    def reconstruct(self, out: Tensor) -> None:
        """``P Qᵀ`` into the flat ``out [num_values]``; keeps Q for the next step.

        Columns of Q that are zero or not finite do not become a start: the previous
        ones stay, so that one bad or empty step does not spoil all later ones.
        """
        for part, right, left in self._parts(out, self._right, self._left):
            torch.mm(left.T, right, out=part)
        sums = torch.zeros(self.rank, len(self.shapes), device=out.device)
        sums.index_add_(1, self._owner_of_col, self._right.abs())
        good = (torch.isfinite(sums) & (sums > 0))[:, self._owner_of_col]
        self._start = torch.where(good, self._right, self._start)

    def state_dict(self) -> dict[str, Tensor]:
        """Q, the same on all ranks."""
        return {"start": self._start.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore Q.

        Raises:
            UserError: it belongs to other matrices or another rank.
        """
        if state["start"].shape != self._start.shape:
            raise UserError(
                f"powersgd: the saved factors are {list(state['start'].shape)},"
                f" this model and rank need {list(self._start.shape)}"
            )
        self._start = state["start"].to(self._start.device).clone()

    def _parts(
        self, flat: Tensor, right: Tensor, left: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The matrices of ``flat``, each with its factors, as views."""
        sizes = [rows * cols for rows, cols in self.shapes]
        rights, lefts = right.split(self._cols, dim=1), left.split(self._rows, dim=1)
        for index, part in enumerate(flat.split(sizes)):
            yield part.view(self.shapes[index]), rights[index], lefts[index]

    def _orthonormal(self, left: Tensor) -> Tensor:
        """Gram and Schmidt on all matrices at once, padded to one height with zeros."""
        height = max(self._rows)
        padded = left.new_zeros(self.rank, len(self.shapes) * height)
        padded.index_copy_(1, self._padded_rows, left)
        basis = padded.view(self.rank, len(self.shapes), height)
        for column in range(self.rank):
            basis[column] = _next_direction(basis[column], basis[:column])
        return padded.index_select(1, self._padded_rows)


def _next_direction(vectors: Tensor, basis: Tensor) -> Tensor:
    """``vectors [k, height]`` without their part in ``basis [r, k, height]``, of unit
    length, or zero.

    Twice, as one pass leaves a part of the size of the cancellation; what is nearly
    dependent on the basis becomes zero rather than amplified rounding.
    """
    vectors = _unit(vectors / _largest(vectors))
    original = vectors
    for _ in range(2):
        parts = torch.einsum("rkh,kh->rk", basis, vectors)
        vectors = vectors - torch.einsum("rkh,rk->kh", basis, parts)
    kept = vectors.norm(dim=1, keepdim=True)
    lost = original.isfinite().all(1, keepdim=True) & (kept < _DEPENDENT)
    return torch.where(lost, 0.0, _unit(vectors))


def _largest(vectors: Tensor) -> Tensor:
    """The largest magnitude of each row, 1 for zeros: keeps squares in range."""
    largest = vectors.abs().amax(1, keepdim=True)
    return torch.where(largest == 0, 1.0, largest)


def _unit(vectors: Tensor) -> Tensor:
    norms = vectors.norm(dim=1, keepdim=True)
    return vectors / torch.where(norms == 0, 1.0, norms)


def _padded_places(rows: Sequence[int], device: torch.device) -> Tensor:
    """The places of the rows of the flat P among matrices padded to the tallest."""
    height = max(rows)
    places = [torch.arange(count) + i * height for i, count in enumerate(rows)]
    return torch.cat(places).to(device)
