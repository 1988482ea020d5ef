"""RandAugment against torchvision's operations, and by the sample's own draws."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from dathvd.config import load_config
from dathvd.data import load_dataset
from dathvd.data.rand_augment import OPERATIONS, rand_augment
from dathvd.errors import UserError
from dathvd.noise import SampleNoise
from dathvd.torchvision_shim import torchvision
from dathvd.training.batches import plan_of

assert torchvision is sys.modules["torchvision"]
CPU = torch.device("cpu")


def pictures(count: int, channels: int = 3, side: int = 32) -> Tensor:
    torch.manual_seed(0)
    small = torch.rand(count, channels, 5, 5)
    large = torch.nn.functional.interpolate(small, (side, side), mode="bicubic")
    return large.clamp(0, 1).mul(255).byte()


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("magnitude", [0, 9, 30])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_operations_are_torchvisions(name: str, magnitude: int, sign: float) -> None:
    from torchvision.transforms import InterpolationMode, RandAugment
    from torchvision.transforms.autoaugment import _apply_op

    image = pictures(1)[0]
    space = RandAugment()._augmentation_space(31, (32, 32))
    assert list(space) == list(OPERATIONS)
    magnitudes, signed = space[name]
    value = float(magnitudes[magnitude]) if magnitudes.ndim else 0.0
    expected = _apply_op(
        image,
        name,
        sign * value if signed else value,
        interpolation=InterpolationMode.NEAREST,
        fill=None,
    )
    found = OPERATIONS[name](image, sign * magnitude / 30)
    # strengths are float32 there: a byte may round the other way
    assert int((found.int() - expected.int()).abs().max()) <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_each_sample_has_its_own_operations(channels: int) -> None:
    images, noise = pictures(24, channels), SampleNoise(1, torch.arange(24))
    whole = rand_augment(images, noise, 2, 20)
    parts = [
        rand_augment(images[p], noise.select(p), 2, 20)
        for p in torch.arange(24).split([5, 19])
    ]
    assert torch.equal(whole, torch.cat(parts))
    assert whole.dtype == torch.uint8 and whole.shape == images.shape
    changed = (whole != images).flatten(1).any(dim=1)
    assert 12 < int(changed.sum())
    same = rand_augment(
        images[:1].repeat(9, 1, 1, 1), SampleNoise(1, torch.arange(9)), 1, 20
    )
    assert len({tuple(each.flatten().tolist()) for each in same}) > 4


def test_workers_see_the_same_images() -> None:
    overrides = ["data.augment=true", "data.rand_augment=2", "train.batch_size=40"]
    config = load_config(None, overrides)
    dataset = load_dataset(config.data)

    def images(rank: int, size: int) -> Tensor:
        return next(plan_of(config, dataset, CPU, rank, size).step(0)).images

    whole = images(0, 1)
    assert torch.equal(whole, torch.cat([images(rank, 3) for rank in range(3)]))
    plain = load_config(None, ["data.augment=true", "train.batch_size=40"])
    clean = next(plan_of(plain, dataset, CPU, 0, 1).step(0)).images
    assert not torch.equal(whole, clean)
    with pytest.raises(UserError, match="rand_augment follows the random crop"):
        load_config(None, ["data.rand_augment=2"])
