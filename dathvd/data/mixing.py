"""Images made of two, with labels in the same parts.

A sample's partner is any training image, drawn by the sample's own noise, and looks as
its own augmentation of that epoch makes it: what an image is mixed with depends neither
on its batch nor on how workers share it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from dathvd.components import MIXES as _MIXES
from dathvd.data.crops import STREAM
from dathvd.data.erasing import rectangles
from dathvd.errors import choose
from dathvd.noise import SampleNoise

Mix = Callable[[Tensor, Tensor, Tensor, SampleNoise], tuple[Tensor, Tensor]]
"""A function of images ``[batch, C, H, W]``, their partners, the share of its own that
each is to keep ``[batch]`` and noise: mixed images, and the shares that they kept."""

_PARTNER, _SHARE, _PLACE = STREAM + 5, STREAM + 6, STREAM + 7


def mix_of(name: str) -> Mix:
    """The mix of that name.

    Raises:
        UserError: there is none.
    """
    mix: Mix = choose("data.mix", name, _MIXES)
    return mix


def partners(noise: SampleNoise, count: int, num_images: int) -> Tensor:
    """The place of each sample's partner among the training images, int64 ``[count]``.

    Args:
        noise: of the samples.
        count: how many samples there are.
        num_images: of the training set.
    """
    draws = noise.uniform((count, 2), _PARTNER).double()
    # two draws of 24 bits tell more images apart than there are
    place = (draws[:, 0] + draws[:, 1] * 2.0**-24) * num_images
    return place.long().clamp_(max=num_images - 1)


def shares(noise: SampleNoise, count: int, alpha: float) -> Tensor:
    """Float32 ``[count]`` of the law Beta(alpha, alpha), by its quantiles."""
    # a tenth of a second on each rank's way to its first step, which few runs need
    from scipy.special import betaincinv

    draws = noise.uniform((count, 1), _SHARE).squeeze(1)
    found = betaincinv(alpha, alpha, draws.double().cpu().numpy())
    return torch.from_numpy(found).to(draws)


def mixup(
    images: Tensor, others: Tensor, kept: Tensor, noise: SampleNoise
) -> tuple[Tensor, Tensor]:
    """Weighted means of two images.

    Zhang et al., mixup: Beyond Empirical Risk Minimization (ICLR 2018), section 2.
    """
    return others.lerp(images, kept.view(-1, 1, 1, 1)), kept


def cutmix(
    images: Tensor, others: Tensor, kept: Tensor, noise: SampleNoise
) -> tuple[Tensor, Tensor]:
    """Images with a rectangle of another one at the same place.

    Yun et al., CutMix (ICCV 2019), section 3.1; Rebuffi et al., Data Augmentation Can
    Improve Robustness (NeurIPS 2021), train robustly on it, with averaged weights.
    """
    count, _, height, width = images.shape
    side = (1 - kept).sqrt()
    heights, widths = side.mul(height).long(), side.mul(width).long()
    draws = noise.uniform((count, 2), _PLACE)
    tops = draws[:, 0].mul(height).long() - heights // 2
    lefts = draws[:, 1].mul(width).long() - widths // 2
    taken = rectangles(images, tops, lefts, heights, widths)
    return torch.where(taken, others, images), 1 - taken.float().mean(dim=(1, 2, 3))


def soft_labels(
    labels: Tensor, others: Tensor, kept: Tensor, num_classes: int
) -> Tensor:
    """Float32 ``[batch, classes]``: the shares of both labels.

    Args:
        labels: int64 ``[batch]``.
        others: int64 ``[batch]``, the partners'.
        kept: ``[batch]``, the share of the image's own.
        num_classes: of the data set.
    """
    own, other = (
        functional.one_hot(each, num_classes).float() for each in (labels, others)
    )
    return other.lerp(own, kept[:, None])
