"""Vectorised augmentation equals its definition, image by image."""

import math

import torch
from torch.nn import functional

from dathvd.config import DataConfig
from dathvd.data import augment, build_augmentation, resized_crop
from dathvd.noise import SampleNoise


def noise(count: int, seed: int = 0) -> SampleNoise:
    return SampleNoise(seed, torch.arange(count))


def test_every_crop_is_a_window_of_the_padded_image() -> None:
    images = torch.rand(200, 2, 5, 7)
    cropped = augment(images, noise(200), padding=2, flip=True)
    padded = functional.pad(images, (2, 2, 2, 2))
    seen = set()
    for image, frame in zip(cropped, padded):
        places = [
            (top, left, mirrored)
            for top in range(5)
            for left in range(5)
            for mirrored in (False, True)
            if torch.equal(
                image.flip(2) if mirrored else image,
                frame[:, top : top + 5, left : left + 7],
            )
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 45  # of 50 places, flips included


def test_draws_belong_to_samples_not_to_batches() -> None:
    images = torch.rand(10, 3, 8, 8)
    whole = augment(images, noise(10))
    part = augment(images[4:7], SampleNoise(0, torch.arange(4, 7)))
    assert torch.equal(whole[4:7], part)
    assert not torch.equal(whole, augment(images, noise(10, seed=1)))


def test_without_padding_and_flip_nothing_changes() -> None:
    images = torch.rand(4, 1, 6, 6)
    assert torch.equal(augment(images, noise(4), padding=0, flip=False), images)


def test_resized_crop_of_all_is_the_image() -> None:
    images = torch.rand(3, 3, 12, 12)
    whole = resized_crop(
        images, noise(3), size=12, flip=False, area=(1.0, 1.0), aspect=(1.0, 1.0)
    )
    torch.testing.assert_close(whole, images, atol=1e-5, rtol=0)


def test_resized_crop_keeps_area_and_shape_in_range() -> None:
    """A ramp image shows the rectangle: its slopes are the sides' lengths."""
    ramp = torch.linspace(0, 1, 64)
    images = torch.stack(torch.meshgrid(ramp, ramp, indexing="ij")).expand(
        500, 2, 64, 64
    )
    crops = resized_crop(images, noise(500), size=16)
    high = (crops[:, 0, -2, 8] - crops[:, 0, 1, 8]) * 63 / 64 * 16 / 13
    wide = (crops[:, 1, 8, -2] - crops[:, 1, 8, 1]) * 63 / 64 * 16 / 13
    area, ratio = wide.abs() * high, wide.abs() / high
    assert 0.08 * 0.95 < area.min() and area.max() < 1.02
    inside = (wide.abs() < 0.97) & (high < 0.97)
    assert 0.72 < ratio[inside].min() and ratio[inside].max() < 1.39
    assert abs(ratio[inside].log().mean()) < 0.03 * math.pi
    assert 180 < int((wide < 0).sum()) < 320


def test_the_configuration_decides() -> None:
    assert build_augmentation(DataConfig()) is None
    padded = build_augmentation(DataConfig(augment=True, padding=0, flip=False))
    cropped = build_augmentation(DataConfig(augment=True, crop_size=5))
    images = torch.rand(2, 3, 8, 8)
    assert padded is not None and torch.equal(padded(images, noise(2)), images)
    assert cropped is not None and cropped(images, noise(2)).shape == (2, 3, 5, 5)
