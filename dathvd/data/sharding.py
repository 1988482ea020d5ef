"""Which samples a worker sees, and when: pure functions of (seed, epoch, rank, size).

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
