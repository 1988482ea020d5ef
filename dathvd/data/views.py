"""Several views of each image, and labels that come from how they were made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dathvd.data.augment import augment, resized_crop
from dathvd.data.crops import STREAM
from dathvd.data.grey import LUMA, luma
from dathvd.data.sets import Frames, ImageSet
from dathvd.noise import SampleNoise

TURNS = ("0 degrees", "90 degrees", "180 degrees", "270 degrees")


@dataclass(frozen=True)
class Views:
    """Makes ``count`` views of each image, a sample's views beside each other."""

    count: int
    make: Callable[[Frames, SampleNoise], Tensor]
    """A function of float images ``[batch, C, H, W]``, or a list of whole ones, and of
    noise: the views ``[count * batch, C, H, W]``."""
    labels: Callable[[int], Tensor]
    """A function of the number of samples: the views' labels, int64
    ``[count * samples]``."""


def turned(images: Frames) -> Tensor:
    """The images, each turned by 0, 1, 2 and 3 quarter turns.

    Gidaris, Singh and Komodakis, Unsupervised Representation Learning by Predicting
    Image Rotations (ICLR 2018).
    """
    assert isinstance(images, Tensor)
    each = [images.rot90(turn, (2, 3)) for turn in range(len(TURNS))]
    return torch.stack(each, dim=1).flatten(0, 1)


def turns(samples: int) -> Tensor:
    """The quarter turns of each sample's views: 0, 1, 2, 3, 0, 1, …"""
    return torch.arange(len(TURNS)).repeat(samples)


def partners(samples: int) -> Tensor:
    """The place of each view's other view: 1, 0, 3, 2, …"""
    return torch.arange(2 * samples).bitwise_xor_(1)


@dataclass(frozen=True)
class Turned:
    """An image set with each image four times, labelled by its quarter turns."""

    images: ImageSet

    @property
    def labels(self) -> Tensor:
        return turns(len(self.images))

    def __len__(self) -> int:
        return len(TURNS) * len(self.images)

    def batch(self, indices: Tensor) -> Tensor:
        upright = self.images.batch(indices // len(TURNS))
        views = turned(upright).view(-1, len(TURNS), *upright.shape[1:])
        return views[torch.arange(len(indices)), indices % len(TURNS)]

    def prefetch(self, indices: Tensor) -> None:
        self.images.prefetch(indices // len(TURNS))


def two_views(
    images: Frames, draws: SampleNoise, *, flip: bool, size: int | None
) -> Tensor:
    """Two views of each image: random crops, scaled and flipped, colours changed.

    Args:
        images: float ``[batch, C, H, W]`` in [0, 1], or with ``size`` a list of
            ``[C, H, W]`` of several sizes.
        draws: of each sample.
        flip: mirror every other view.
        size: height and width of the views of square crops; None keeps the image's
            size, which crops by padding where it is not square.
    """
    each = draws.repeat(2)
    if not isinstance(images, Tensor):
        assert size is not None
        frames = [image for image in images for _ in range(2)]
        cropped = resized_crop(frames, each, size=size, flip=flip, area=(0.2, 1.0))
        return jittered(cropped, each)
    doubled = images.repeat_interleave(2, dim=0)
    height, width = images.shape[2:]
    if size is None and height != width:
        cropped = augment(doubled, each, flip=flip)
    else:
        cropped = resized_crop(
            doubled, each, size=size or height, flip=flip, area=(0.2, 1.0)
        )
    return jittered(cropped, each)


def jittered(
    images: Tensor, noise: SampleNoise, *, strength: float = 0.4, grey: float = 0.2
) -> Tensor:
    """Brightness, contrast and saturation times 1 ± strength; some images made grey.

    The colour distortion of Chen et al. (ICML 2020), appendix A, without changes of
    hue.

    Args:
        images: float ``[batch, C, H, W]`` in [0, 1].
        noise: draws that belong to each sample.
        strength: largest relative change, in [0, 1].
        grey: share of images that lose all colour.
    """
    draws = noise.uniform((len(images), 4), STREAM + 1).view(-1, 4, 1, 1, 1)
    factors = draws[:, :3].mul(2 * strength).add(1 - strength)
    bright = images * factors[:, 0]
    mean = bright.mean(dim=(1, 2, 3), keepdim=True)
    contrasted = torch.lerp(mean.expand_as(bright), bright, factors[:, 1])
    if images.shape[1] != len(LUMA):
        return contrasted.clamp_(0.0, 1.0)
    plain = luma(contrasted).expand_as(contrasted)
    saturation = torch.where(draws[:, 3] < grey, 0.0, factors[:, 2])
    return torch.lerp(plain, contrasted, saturation).clamp_(0.0, 1.0)
