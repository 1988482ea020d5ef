"""Each worker's share of each global batch, a pure function of seed and step."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dathvd.data import (
    Augmentation,
    ImageSet,
    num_batches,
    permutation,
    worker_slice,
)
from dathvd.noise import SampleNoise, mix_seed

# seeds of different uses must differ
_ORDER, _ATTACK, _AUGMENT = 0x0D, 0xA7, 0xA6


@functools.lru_cache(maxsize=2)  # this step's epoch, and the next step's
def _order(num_samples: int, seed: int, epoch: int) -> Tensor:
    return permutation(num_samples, mix_seed(seed, _ORDER), epoch)


@dataclass(frozen=True)
class Batch:
    """One worker's images of one backward pass."""

    images: Tensor
    """Float32 ``[batch, channels, height, width]`` in [0, 1]."""
    labels: Tensor
    """Int64 ``[batch]``."""
    noise: SampleNoise
    """The random numbers of these samples in this epoch."""
    share: float
    """Weight of this batch's mean so that the mean over workers is the mean over the
    global batch: images here * workers * passes / images everywhere."""


@dataclass(frozen=True)
class BatchPlan:
    """How the training set is cut into steps, and steps into workers' batches.

    The global batch of step t of an epoch is the t-th run of ``batch_size`` samples of
    that epoch's permutation; the last one of an epoch may be smaller. Every sample is
    used exactly once per epoch, whatever the number of workers; nothing is padded.
    """

    images: ImageSet
    batch_size: int
    passes: int
    rank: int
    size: int
    seed: int
    augment: Augmentation | None
    device: torch.device

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the training set."""
        return num_batches(len(self.images), self.batch_size)

    def step(self, step: int) -> Iterator[Batch]:
        """This worker's batches of a step: one a backward pass, empty ones left out."""
        epoch = step // self.steps_per_epoch
        for indices, share in self._shares(step):
            yield self._batch(indices, epoch, share)
        # image files are decoded while the network computes
        coming = [indices for indices, _ in self._shares(step + 1)]
        if coming:
            self.images.prefetch(torch.cat(coming))

    def _shares(self, step: int) -> Iterator[tuple[Tensor, float]]:
        """This worker's samples of each backward pass, with their batch's share."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _order(len(self.images), self.seed, epoch)
        everyone = order[position * self.batch_size :][: self.batch_size]
        for part in torch.tensor_split(everyone, self.passes):
            mine = worker_slice(part, self.rank, self.size)
            if len(mine):
                yield mine, len(mine) * self.size * self.passes / len(everyone)

    def _batch(self, indices: Tensor, epoch: int, share: float) -> Batch:
        images = self.images.batch(indices).to(self.device, non_blocking=True)
        labels = self.images.labels[indices].to(self.device, non_blocking=True)
        ids = indices.to(self.device, non_blocking=True)
        floats = images.float().div_(255)
        if self.augment is not None:
            draws = SampleNoise(mix_seed(self.seed, _AUGMENT, epoch), ids)
            floats = self.augment(floats, draws)
        noise = SampleNoise(mix_seed(self.seed, _ATTACK, epoch), ids)
        return Batch(floats, labels, noise, share)
