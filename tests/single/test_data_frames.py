"""Training crops from the whole frame of an image, evaluation from its middle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dathvd.config import DataConfig
from dathvd.data import (
    Dataset,
    as_floats,
    build_augmentation,
    load_dataset,
    resized_crop,
    whole_frames,
)
from dathvd.noise import SampleNoise
from dathvd.training.batches import BatchPlan

CPU = torch.device("cpu")
STORAGES = ("memory", "lazy", "cache")


def write_columns(path: Path, width: int, height: int) -> None:
    """An image whose every column has a brightness of its own, growing to the right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = np.linspace(0, 255, width).astype(np.uint8)
    Image.fromarray(np.broadcast_to(row, (height, width)).copy()).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Wide, high and square images of odd sizes."""
    for index, (width, height) in enumerate([(120, 40), (61, 40), (40, 40), (40, 77)]):
        write_columns(tmp_path / f"train/a/{index}.png", width, height)
    write_columns(tmp_path / "test/a/0.png", 120, 40)
    return tmp_path


def config(root: Path, storage: str, **fields: object) -> DataConfig:
    kept: dict[str, object] = {"storage": storage}
    if storage == "cache":
        kept = {"cache": str(root / "cache")}
    tree = {"name": "image_folder", "root": str(root), "image_size": 40, **kept}
    tree |= {"crop_size": 32, "augment": True, **fields}
    return DataConfig.model_validate(tree)


def plan(dataset: Dataset, settings: DataConfig, rank: int, size: int) -> BatchPlan:
    return BatchPlan(
        images=dataset.train,
        batch_size=len(dataset.train),
        passes=1,
        rank=rank,
        size=size,
        seed=0,
        augment=build_augmentation(settings),
        device=CPU,
    )


@pytest.mark.parametrize("storage", STORAGES)
def test_training_sees_the_sides_of_a_wide_image(root: Path, storage: str) -> None:
    settings = config(root, storage)
    dataset = load_dataset(settings)
    frames = as_floats(whole_frames(dataset.train, torch.arange(4)), CPU)
    assert [tuple(frame.shape) for frame in frames] == [
        (1, 40, 120),
        (1, 40, 61),
        (1, 40, 40),
        (1, 77, 40),
    ]
    augment = build_augmentation(settings)
    assert augment is not None
    wide = [frames[0]] * 400
    seen = augment(wide, SampleNoise(3, torch.arange(400)))
    assert seen.shape == (400, 1, 32, 32)
    # the central square holds brightnesses from a third to two thirds alone
    assert float(seen.min()) < 0.02 and float(seen.max()) > 0.98
    beyond = (seen < 1 / 3) | (seen > 2 / 3)
    assert float(beyond.float().mean()) > 0.5
    # evaluation keeps the middle
    (image,) = dataset.test.batch(torch.tensor([0]))
    assert image.shape == (1, 32, 32)
    assert 0.33 < float(image.float().min()) / 255 < float(image.max()) / 255 < 0.67


def test_every_storage_crops_alike_for_any_number_of_workers(root: Path) -> None:
    results = []
    for storage in STORAGES:
        settings = config(root, storage)
        dataset = load_dataset(settings)
        (whole,) = plan(dataset, settings, 0, 1).step(0)
        parts = [next(plan(dataset, settings, rank, 3).step(0)) for rank in range(3)]
        results.append(whole.images)
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_a_cache_of_squares_is_not_taken_for_one_of_frames(root: Path) -> None:
    squares = load_dataset(config(root, "cache", augment=False))
    assert squares.train.batch(torch.arange(4)).shape == (4, 1, 32, 32)
    frames = load_dataset(config(root, "cache"))
    assert whole_frames(frames.train, torch.tensor([0]))[0].shape == (1, 40, 120)
    again = load_dataset(config(root, "cache", augment=False))
    first, second = (each.train.batch(torch.arange(4)) for each in (squares, again))
    assert torch.equal(first, second)


def ramp(width: int) -> Tensor:
    """Float ``[1, 1, 8, width]``: every pixel is its column's middle over the width."""
    columns = (torch.arange(width) + 0.5) / width
    return columns.expand(1, 1, 8, width).clone()


def test_places_are_even_over_the_whole_frame() -> None:
    """The middle of a crop of a fixed size lies evenly between its two limits."""
    count = 4000
    images = ramp(64).expand(count, 1, 8, 64)
    noise = SampleNoise(0, torch.arange(count))
    crops = resized_crop(
        images, noise, size=8, flip=False, area=(0.125, 0.125), aspect=(1.0, 1.0)
    )
    middles = crops.mean(dim=(1, 2, 3))  # of 8 columns: between 4/64 and 60/64
    places = (middles - 4 / 64) / (56 / 64)
    assert float(places.min()) < 0.01 and float(places.max()) > 0.99
    for share in (0.25, 0.5, 0.75):
        below = float((places < share).float().mean())
        # four standard deviations of a binomial share
        assert abs(below - share) < 4 * (share * (1 - share) / count) ** 0.5


def test_shrinking_is_antialiased() -> None:
    """A pattern that is too fine for the result becomes its mean, as torchvision's."""
    stripes = (torch.arange(64) % 2).float().expand(1, 3, 64, 64).clone()
    noise = SampleNoise(0, torch.zeros(1, dtype=torch.int64))
    options = {"flip": False, "area": (1.0, 1.0), "aspect": (1.0, 1.0)}
    small = resized_crop(stripes, noise, size=8, **options)  # type: ignore[arg-type]
    assert float((small[..., 1:-1] - 0.5).abs().max()) < 0.02
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ours = resized_crop(picture, noise, size=20, **options)  # type: ignore[arg-type]
    theirs = functional.interpolate(
        picture, size=(20, 20), mode="bilinear", antialias=True, align_corners=False
    )
    assert torch.allclose(ours, theirs, atol=1e-5)
