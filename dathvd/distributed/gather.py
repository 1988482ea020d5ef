"""The rows of all workers as one tensor, through which gradients flow back."""

from __future__ import annotations

from typing import Any

import horovod.torch as hvd
import torch
from torch import Tensor

from dathvd.distributed.blocking import all_rows, sum_over_workers

_PURPOSE = "rows of all workers"


def gather_rows(rows: Tensor) -> Tensor:
    """Every worker's rows, this worker's first, then the others' by rank. A collective.

    The gradient of a worker's rows is the sum over all workers' losses, each of which
    may depend on them: ``sum_r dL_r / drows``. The backward pass is a collective too,
    so every worker must run it. Where weight gradients are then averaged over workers,
    the result is the gradient of the mean of their losses, as if one process had
    computed it.

    Args:
        rows: ``[n, d]``; n, at least 1, may differ between workers.

    Returns:
        ``[sum of n, d]``.
    """
    if hvd.size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        count = torch.tensor([len(rows)])
        ctx.counts = all_rows(count, "gather.counts", _PURPOSE).tolist()
        everyone = all_rows(rows.detach().contiguous(), "gather.rows", _PURPOSE)
        return _own_first(everyone, ctx.counts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        in_order = _by_rank(gradient, ctx.counts)
        summed = sum_over_workers(in_order, "gather.gradient", _PURPOSE)
        return _own_first(summed, ctx.counts)[: ctx.counts[hvd.rank()]]


def _own_first(by_rank: Tensor, counts: list[int]) -> Tensor:
    parts = list(by_rank.split(counts))
    own = parts.pop(hvd.rank())
    return torch.cat([own, *parts])


def _by_rank(own_first: Tensor, counts: list[int]) -> Tensor:
    rank = hvd.rank()
    others = counts[:rank] + counts[rank + 1 :]
    own, *parts = own_first.split([counts[rank], *others])
    parts.insert(rank, own)
    return torch.cat(parts)
