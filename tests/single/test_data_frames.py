"""Training crops from the whole frame of an image, evaluation from its middle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dathvd.config import DataConfig, ObjectiveConfig, load_config
from dathvd.data import (
    Dataset,
    as_floats,
    build_augmentation,
    load_dataset,
    resized_crop,
    whole_frames,
)
from dathvd.data.crops import draw_crops
from dathvd.noise import SampleNoise
from dathvd.tasks import task_of
from dathvd.torchvision_shim import torchvision
from dathvd.training.batches import BatchPlan
from dathvd.training.guard import hold_out

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


def drawn(height: int, width: int, count: int) -> Tensor:
    """Our crops ``[count, 4]``: middle row and column, height and width, as shares."""
    crops = draw_crops(
        [(height, width)] * count,
        SampleNoise(0, torch.arange(count)),
        area=(0.08, 1.0),
        aspect=(3 / 4, 4 / 3),
    )
    assert bool((crops.top >= 0).all() and (crops.left >= 0).all())
    assert bool((crops.top + crops.height <= height + 1e-3).all())
    assert bool((crops.left + crops.width <= width + 1e-3).all())
    sides = torch.stack([crops.height, crops.width], 1)
    corners = torch.stack([crops.top, crops.left], 1)
    whole = torch.tensor([height, width], dtype=torch.float32)
    return torch.cat([(corners + sides / 2) / whole, sides / whole], 1)


def torchvisions(height: int, width: int, count: int) -> Tensor:
    """The same of torchvision's RandomResizedCrop."""
    torch.manual_seed(0)
    image = torch.empty(1, height, width)
    draw = torchvision.transforms.RandomResizedCrop.get_params
    area, aspect = [0.08, 1.0], [3 / 4, 4 / 3]
    boxes = torch.tensor([draw(image, area, aspect) for _ in range(count)]).float()
    whole = torch.tensor([height, width], dtype=torch.float32)
    return torch.cat(
        [(boxes[:, :2] + boxes[:, 2:] / 2) / whole, boxes[:, 2:] / whole], 1
    )


@pytest.mark.parametrize("size", [(256, 256), (256, 341), (512, 256), (256, 2560)])
def test_crops_have_torchvisions_law(size: tuple[int, int]) -> None:
    """Kolmogorov and Smirnov's distance of places and sides, at p = 0.001."""
    count = 1500
    ours, theirs = drawn(*size, count), torchvisions(*size, count)
    limit = 1.95 * (2 / count) ** 0.5
    for mine, other in zip(ours.unbind(1), theirs.unbind(1)):
        points = torch.cat([mine, other]) + 1e-3  # theirs lie on whole pixels
        below = [
            torch.searchsorted(values.sort().values, points, right=True) / count
            for values in (mine, other)
        ]
        assert float((below[0] - below[1]).abs().max()) < limit + 0.02


def test_frames_lie_beside_extra_images_and_behind_the_guard(root: Path) -> None:
    extra = np.full((2, 40, 40, 1), 9, dtype=np.uint8)
    np.savez(root / "extra.npz", image=extra, label=np.zeros(2, dtype=np.int64))
    settings = config(root, "memory", extra=str(root / "extra.npz"))
    dataset = load_dataset(settings)
    shapes = [frame.shape[2] for frame in whole_frames(dataset.train, torch.arange(6))]
    assert shapes == [120, 61, 40, 40, 40, 40]
    mixed = whole_frames(dataset.train, torch.tensor([5, 0]))
    assert float(mixed[0].float().mean()) == 9 and mixed[1].shape == (1, 40, 120)
    none = torch.empty(0, dtype=torch.int64)
    assert whole_frames(dataset.train, none).shape == (0, 1, 40, 40)  # type: ignore
    guarded = ["train.guard.action=warn", "train.guard.num_samples=1"]
    rest, probe = hold_out(dataset, load_config(None, guarded))
    widths = {frame.shape[2] for frame in whole_frames(rest.train, torch.arange(5))}
    assert widths <= {120, 61, 40} and len(rest.train) == 5
    # the guard sees what evaluation would: the middle, of the crop's size
    assert probe.batch(torch.tensor([0])).shape == (1, 1, 32, 32)


@pytest.mark.parametrize("objective", ["contrastive", "rotation"])
def test_views_are_made_of_whole_frames(root: Path, objective: str) -> None:
    settings = config(root, "lazy")
    dataset = load_dataset(settings)
    augmentation, views = task_of(ObjectiveConfig(name=objective)).views(settings)
    assert views is not None
    frames = as_floats(whole_frames(dataset.train, torch.tensor([0] * 100)), CPU)
    noise = SampleNoise(0, torch.arange(100))
    seen = frames if augmentation is None else augmentation(frames, noise)
    made = views.make(seen, noise)
    assert made.shape == (100 * views.count, 1, 32, 32)
    assert float(made.min()) < 0.1  # the left side, outside of the central square
