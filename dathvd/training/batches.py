"""Each worker's share of each global batch, a pure function of seed and step."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dathvd.config import Config, DataConfig
from dathvd.data import (
    Augmentation,
    Dataset,
    Frames,
    ImageSet,
    Views,
    as_floats,
    mixed_order,
    num_batches,
    permutation,
    whole_frames,
    worker_slice,
)
from dathvd.data.mixing import Mix, mix_of, partners, shares, soft_labels
from dathvd.data.rand_augment import rand_augment
from dathvd.devices import to_device
from dathvd.noise import SampleNoise, mix_seed
from dathvd.tasks import task_of

# seeds of different uses must differ
_ORDER, _ATTACK, _AUGMENT = 0x0D, 0xA7, 0xA6
_PIXELS = 77
"""The stream of the images' noise; others belong to augmentation."""
_NO_EPOCH = -1
"""In the place of an epoch: its random numbers are drawn in no epoch."""


@dataclass(frozen=True)
class Extra:
    """The extra images of a training set, its last ones, and what they count."""

    num_images: int = 0
    """How many of the training images are extra."""
    ratio: float | None = None
    """The share of extra images in every worker's batch, in (0, 1); None shuffles all
    together."""
    weight: float = 1.0
    """The weight of an extra image in the loss; the others have 1."""


@functools.lru_cache(maxsize=2)  # this step's epoch, and the next step's
def _order(num_samples: int, extra: Extra, seed: int, epoch: int) -> Tensor:
    """The samples of an epoch, in their order."""
    seed = mix_seed(seed, _ORDER)
    if extra.ratio is None:
        return permutation(num_samples, seed, epoch)
    own = num_samples - extra.num_images
    return mixed_order(own, extra.num_images, extra.ratio, seed=seed, epoch=epoch)


def extra_of(config: DataConfig, dataset: Dataset) -> Extra:
    """The extra images of that data set, as configured."""
    return Extra(dataset.num_extra, config.extra_ratio, config.extra_weight)


@dataclass(frozen=True)
class Batch:
    """One worker's images (or views of them) of one backward pass."""

    images: Tensor
    """Float32 ``[batch, channels, height, width]`` in [0, 1]."""
    labels: Tensor
    """Int64 ``[batch]``; float32 ``[batch, classes]`` where images are mixed."""
    noise: SampleNoise
    """The random numbers of these samples in this epoch."""
    share: float
    """Weight of this batch's mean so that the mean over workers is the mean over the
    global batch: images here * workers * passes / images everywhere."""
    weights: Tensor | None = None
    """Float32 ``[batch]``, each image's weight in the loss; None weighs all 1."""


@dataclass(frozen=True)
class BatchPlan:
    """How the training set is cut into steps, and steps into workers' batches.

    The global batch of step t of an epoch is the t-th run of ``batch_size`` samples of
    that epoch's order; the last one of an epoch may be smaller. Every sample is used
    exactly once per epoch, whatever the number of workers; nothing is padded. Where
    extra images are mixed in by a ratio, that is true of all others, and the extra ones
    take turns.
    """

    images: ImageSet
    batch_size: int
    passes: int
    rank: int
    size: int
    seed: int
    augment: Augmentation | None
    device: torch.device
    extra: Extra = Extra()
    keep_empty: bool = False
    """Yield this worker's batch of a backward pass also where it has no image there,
    as long as another has: for networks whose forward pass is a collective."""
    views: Views | None = None
    """What makes several views of each image, with labels of their own."""
    mix: Mix | None = None
    """What makes one image of two."""
    mix_alpha: float = 1.0
    """The share of its own that an image keeps follows Beta(mix_alpha, mix_alpha)."""
    operations: int = 0
    """Of RandAugment on each augmented image."""
    magnitude: int = 0
    """Of these, 0 to 30."""
    pixel_noise: float = 0.0
    """Standard deviation of normal noise on the images, which are not clipped."""
    num_classes: int = 0
    """Of the data set; mixed labels have so many parts."""

    @functools.cached_property
    def images_per_epoch(self) -> int:
        """Images of one pass over the training set; equal in all epochs."""
        return len(self._order(0))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the training set."""
        return num_batches(self.images_per_epoch, self.batch_size)

    def num_images(self, step: int) -> int:
        """Images of a step, over all workers."""
        before = step % self.steps_per_epoch * self.batch_size
        return min(self.batch_size, self.images_per_epoch - before)

    def describe(self, num_steps: int) -> str:
        """One line: images, steps of an epoch and of the run, how images are used."""
        num_extra, ratio = self.extra.num_images, self.extra.ratio
        images = f"{len(self.images)} training images"
        if num_extra:
            own = len(self.images) - num_extra
            weight = f", of weight {self.extra.weight:g}"
            images = f"{own} training images and {num_extra} extra ones{weight}"
        use = "every image once an epoch, none dropped, none padded"
        if ratio is not None:
            use = f"{100 * ratio:g} % of every batch are extra images, which take turns"
        steps = f"{self.steps_per_epoch} steps an epoch, {num_steps} steps"
        return f"{images}, {steps}; {use}"

    def step(self, step: int) -> Iterator[Batch]:
        """This worker's batches of a step: one a backward pass, empty ones left out."""
        # The threads that decode image files go on with the next step's while this
        # step's are augmented and the network computes.
        coming = [*self._places(step), *self._places(step + 1)]
        if coming:
            self.images.prefetch(torch.cat(coming))
        epoch = step // self.steps_per_epoch
        for indices, share in self._shares(step):
            yield self._batch(indices, epoch, share)

    def _places(self, step: int) -> list[Tensor]:
        """The images that this worker's batches of a step are made of."""
        places = [indices for indices, _ in self._shares(step)]
        if self.mix is None:
            return places
        epoch, count = step // self.steps_per_epoch, len(self.images)
        draws = [self._draws(each, epoch) for each in places]
        others = [partners(d, len(each), count) for d, each in zip(draws, places)]
        return [part for pair in zip(places, others) for part in pair]

    def _shares(self, step: int) -> Iterator[tuple[Tensor, float]]:
        """This worker's samples of each backward pass, with their batch's share."""
        epoch, position = divmod(step, self.steps_per_epoch)
        everyone = self._order(epoch)[position * self.batch_size :][: self.batch_size]
        for part in torch.tensor_split(everyone, self.passes):
            mine = worker_slice(part, self.rank, self.size)
            if len(mine) or (self.keep_empty and len(part)):
                yield mine, len(mine) * self.size * self.passes / len(everyone)

    def sample(self, count: int, seed: int) -> Tensor:
        """Places of images drawn one by one, each image as often as training takes it:
        int64 ``[count]``, some of them perhaps twice."""
        generator = torch.Generator().manual_seed(seed)
        extra, everyone = self.extra, len(self.images)
        if extra.ratio is None:
            return torch.randint(everyone, (count,), generator=generator)
        own = everyone - extra.num_images
        from_own = torch.randint(own, (count,), generator=generator)
        from_extra = torch.randint(own, everyone, (count,), generator=generator)
        is_extra = torch.rand(count, generator=generator) < extra.ratio
        return torch.where(is_extra, from_extra, from_own)

    def draw(self, indices: Tensor, ids: Tensor) -> Batch:
        """A batch that belongs to no step, made as training makes its own.

        Args:
            indices: int64 ``[batch]``, places of images.
            ids: int64 ``[batch]``, what the random numbers of each follow from, apart
                from those of every epoch.
        """
        return self._batch(indices, _NO_EPOCH, 1.0, ids)

    def _draws(self, ids: Tensor, epoch: int) -> SampleNoise:
        """The random numbers of augmentation and mixing."""
        return SampleNoise(mix_seed(self.seed, _AUGMENT, epoch), ids)

    def _augmented(self, indices: Tensor, draws: SampleNoise) -> Frames:
        """Float images in [0, 1], augmented if so configured, on the device."""
        frames = whole_frames(self.images, indices)
        on_gpu = self.device.type != "cpu"
        if on_gpu:
            frames = as_floats(frames, self.device)
        if self.augment is not None:
            frames = self.augment(frames, draws)
            frames = self._operated(frames, draws)
        # bytes are augmented faster than floats on a CPU
        return frames if on_gpu else as_floats(frames, self.device)

    def _operated(self, frames: Frames, draws: SampleNoise) -> Frames:
        """Images after RandAugment, as bytes where they were bytes."""
        if not self.operations:
            return frames
        assert isinstance(frames, Tensor)
        is_float = frames.is_floating_point()
        pixels = frames.mul(255).round_().byte() if is_float else frames
        changed = rand_augment(pixels, draws, self.operations, self.magnitude)
        return changed.to(frames).div_(255) if is_float else changed

    def _order(self, epoch: int) -> Tensor:
        return _order(len(self.images), self.extra, self.seed, epoch)

    def _weights(self, indices: Tensor) -> Tensor | None:
        if self.extra.weight == 1.0:
            return None
        is_extra = indices >= len(self.images) - self.extra.num_images
        return torch.where(is_extra, self.extra.weight, 1.0)

    def _batch(
        self, indices: Tensor, epoch: int, share: float, own_ids: Tensor | None = None
    ) -> Batch:
        labels = to_device(self.images.labels[indices], self.device)
        chosen = indices if own_ids is None else own_ids
        places, ids = (to_device(each, self.device) for each in (indices, chosen))
        draws = self._draws(ids, epoch)
        frames = self._augmented(indices, draws)
        if self.mix is not None:
            assert isinstance(frames, Tensor)
            count = len(self.images)
            theirs = partners(self._draws(chosen, epoch), len(indices), count)
            others = self._augmented(theirs, draws.of(to_device(theirs, self.device)))
            assert isinstance(others, Tensor)
            kept = shares(draws, len(indices), self.mix_alpha)
            frames, kept = self.mix(frames, others, kept, draws)
            second = to_device(self.images.labels[theirs], self.device)
            labels = soft_labels(labels, second, kept, self.num_classes)
        if self.views is not None:
            frames = self.views.make(frames, draws)
        assert isinstance(frames, Tensor)
        if self.pixel_noise:
            each = draws if self.views is None else draws.repeat(self.views.count)
            frames = frames + self.pixel_noise * each.normal(frames.shape, _PIXELS)
        noise = SampleNoise(mix_seed(self.seed, _ATTACK, epoch), ids)
        batch = Batch(frames, labels, noise, share, self._weights(places))
        return batch if self.views is None else _per_view(batch, self.views)


def _per_view(batch: Batch, views: Views) -> Batch:
    """The batch, whose images are views, with a label, noise and weight for each."""
    weights = batch.weights
    return replace(
        batch,
        labels=to_device(views.labels(len(batch.labels)), batch.labels.device),
        noise=batch.noise.repeat(views.count),
        weights=None if weights is None else weights.repeat_interleave(views.count),
    )


def plan_of(
    config: Config, dataset: Dataset, device: torch.device, rank: int, size: int
) -> BatchPlan:
    """The batches of one worker of a run.

    Args:
        config: batch size, passes, augmentation, views and extra images.
        dataset: as the objective sees it.
        device: where batches are put.
        rank: the worker's, from 0.
        size: the number of workers.

    Raises:
        UserError: the task cannot work with the last batch of an epoch.
    """
    task = task_of(config.objective)
    augment, views = task.views(config.data)
    plan = BatchPlan(
        images=dataset.train,
        batch_size=config.train.batch_size,
        passes=config.train.backward_passes_per_step,
        rank=rank,
        size=size,
        seed=config.seed,
        augment=augment,
        device=device,
        extra=extra_of(config.data, dataset),
        keep_empty=config.train.batch_norm == "synchronised",
        views=views,
        mix=None if config.data.mix is None else mix_of(config.data.mix),
        mix_alpha=config.data.mix_alpha,
        operations=config.data.rand_augment,
        magnitude=config.data.rand_magnitude,
        pixel_noise=config.data.noise,
        num_classes=len(dataset.classes),
    )
    last = plan.images_per_epoch % plan.batch_size or plan.batch_size
    task.check_steps(last, plan.size * plan.passes, plan.batch_size)
    return plan
