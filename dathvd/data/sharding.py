"""The samples that a worker sees: pure functions of (seed, epoch, rank, size).

Every sample is seen exactly once per epoch for any number of workers; nothing is
dropped and nothing padded. The last batch of an epoch holds what is left, and slices of
one batch differ by at most one sample (they are empty for the last ranks where a batch
has fewer samples than there are workers).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dathvd.noise import mix_seed

_EXTRA = 0xE7  # the order of extra samples has a seed of its own


def permutation(num_samples: int, seed: int, epoch: int) -> Tensor:
    """The epoch's order: int64 ``[num_samples]``, the same on every rank."""
    generator = torch.Generator().manual_seed(mix_seed(seed, epoch))
    return torch.randperm(num_samples, generator=generator)


def num_batches(num_samples: int, batch_size: int) -> int:
    """Batches per epoch; the last one may be smaller."""
    return -(-num_samples // batch_size)


def worker_slice(batch: Tensor, rank: int, size: int) -> Tensor:
    """The part of a global batch that worker ``rank`` of ``size`` takes."""
    return batch.tensor_split(size)[rank]


def epoch_batches(
    num_samples: int,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    size: int = 1,
    first: int = 0,
) -> Iterator[Tensor]:
    """One worker's indices of every global batch of an epoch.

    Args:
        num_samples: size of the data set.
        batch_size: images per step over all workers.
        seed: decides the order, together with the epoch.
        epoch: from 0.
        rank: this worker, in [0, size).
        size: number of workers.
        first: the batch to begin with, where an epoch is resumed.

    Yields:
        int64 indices; over all ranks they are ``perm[t * B : (t + 1) * B]`` at step t.
    """
    order = permutation(num_samples, seed, epoch)
    for batch in torch.split(order, batch_size)[first:]:
        yield worker_slice(batch, rank, size)


def mixed_order(
    num_labelled: int, num_extra: int, extra_share: float, *, seed: int, epoch: int
) -> Tensor:
    """An epoch's order of labelled and extra samples in a fixed ratio.

    Every run of n places holds ``n * extra_share`` extra samples, give or take one, so
    every worker's slice of every batch does. An epoch uses each labelled sample exactly
    once; the extra ones take turns, over epochs, so that none is used twice before all
    were used once.

    Args:
        num_labelled: samples with places [0, num_labelled).
        num_extra: samples with places [num_labelled, num_labelled + num_extra).
        extra_share: share of extra samples, in [0, 1).
        seed: decides the order, together with the epoch.
        epoch: from 0.

    Returns:
        int64 places up to the last labelled one; they are less than
        ``1 / (1 - extra_share)`` short of ``num_labelled / (1 - extra_share)``.
    """
    slots = torch.arange(int(num_labelled / (1 - extra_share)) + 2).double()
    is_extra = ((slots + 1) * extra_share).floor() > (slots * extra_share).floor()
    is_extra = is_extra[: int((~is_extra).nonzero()[num_labelled - 1]) + 1]
    order = torch.empty(len(is_extra), dtype=torch.int64)
    order[~is_extra] = permutation(num_labelled, seed, epoch)
    count = int(is_extra.sum())
    order[is_extra] = num_labelled + _turns(num_extra, epoch * count, count, seed)
    return order


def _turns(num_samples: int, start: int, count: int, seed: int) -> Tensor:
    """``count`` entries from ``start`` of an endless row of permutations."""
    rounds = range(start // num_samples, -(-(start + count) // num_samples))
    orders = [permutation(num_samples, mix_seed(seed, _EXTRA), turn) for turn in rounds]
    if not orders:
        return torch.empty(0, dtype=torch.int64)
    return torch.cat(orders)[start % num_samples :][:count]
