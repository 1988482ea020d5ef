"""Image folders: what is read, how it is stored, and every way it can be wrong."""

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dathvd.config import DataConfig
from dathvd.data import Dataset, cache, load_dataset
from dathvd.data.decode import Decoder
from dathvd.errors import UserError


def write_image(path: Path, size: tuple[int, int] = (6, 6), grey: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), grey, dtype=np.uint8)
    pixels[0, 0] = (255, 0, 10)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, three training images each and one test image each."""
    for label, name in enumerate(("cat", "dog")):
        for index in range(3):
            write_image(tmp_path / f"train/{name}/{index}.png", grey=10 * label + index)
        write_image(tmp_path / f"test/{name}/0.png", grey=100 + label)
    return tmp_path


def load(root: Path, **fields: object) -> Dataset:
    tree = {"name": "image_folder", "root": str(root), **fields}
    return load_dataset(DataConfig.model_validate(tree))


def everything(dataset: Dataset) -> torch.Tensor:
    return dataset.train.batch(torch.arange(len(dataset.train)))


def test_classes_labels_and_pixels(root: Path) -> None:
    dataset = load(root)
    assert dataset.classes == ("cat", "dog")
    assert dataset.image_shape == (3, 6, 6)
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    images = everything(dataset)
    assert images[:, 0, 3, 3].tolist() == [0, 1, 2, 10, 11, 12]
    assert images[4, :, 0, 0].tolist() == [255, 0, 10]
    assert dataset.test.batch(torch.tensor([1]))[0, 0, 3, 3] == 101


def test_the_first_test_images_are_of_all_classes(root: Path) -> None:
    write_image(root / "test/cat/1.png", grey=102)
    write_image(root / "test/cat/2.png", grey=103)
    write_image(root / "test/dog/1.png", grey=104)
    test = load(root).test
    assert test.labels.tolist() == [0, 1, 0, 1, 0]
    greys = test.batch(torch.arange(5))[:, 0, 3, 3].tolist()
    assert greys == [100, 101, 102, 104, 103]


def test_every_storage_holds_the_same_images(root: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    sets = [
        load(root, storage="memory"),
        load(root, storage="lazy"),
        load(root, cache=cache),
        load(root, cache=cache),
    ]
    for dataset in sets[1:]:
        assert torch.equal(everything(dataset), everything(sets[0]))
    assert len(list(Path(cache).glob("*/*.npy"))) == 2


def test_prefetched_images_are_the_right_ones(root: Path) -> None:
    images = load(root, storage="lazy").train
    expected = load(root).train
    images.prefetch(torch.tensor([5, 0, 2]))
    images.prefetch(torch.tensor([2, 1]))
    for places in ([1, 2], [2, 0], [5, 5, 3]):
        indices = torch.tensor(places)
        assert torch.equal(images.batch(indices), expected.batch(indices))


def test_cache_notices_a_changed_image(root: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    before = everything(load(root, cache=cache))
    write_image(root / "train/cat/1.png", grey=200)
    after = everything(load(root, cache=cache))
    assert before[1, 0, 3, 3] == 1 and after[1, 0, 3, 3] == 200


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are decoded from now on; a cache's parts hold two images."""
    names: list[str] = []
    decode = Decoder.__call__

    def counted(decoder: Decoder, path: str) -> Any:
        names.append(path)
        return decode(decoder, path)

    monkeypatch.setattr(cache, "PART", 2)
    monkeypatch.setattr(Decoder, "__call__", counted)
    return names


@pytest.mark.parametrize("size", [None, 5])
def test_a_killed_cache_is_gone_on_with(
    root: Path, tmp_path: Path, decoded: list[str], size: int | None
) -> None:
    """Six training images in three parts; the third is interrupted."""
    options = {"image_size": size, "augment": size is not None}
    options |= {"crop_size": 4} if size else {}
    plain = everything(load(root, storage="memory", **options))
    place = str(tmp_path / "cache")
    decoded.clear()
    last = sorted((root / "train" / "dog").iterdir())[-1]
    hidden = last.read_bytes()
    stamp = last.stat()
    last.write_bytes(b"x" * len(hidden))  # what ends the first try
    os.utime(last, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(UserError, match="is not an image"):
        load(root, cache=place, **options)
    assert len(list(Path(place).glob("*/*.npy"))) == 2
    last.write_bytes(hidden)
    os.utime(last, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    decoded.clear()
    again = load(root, cache=place, **options)
    train = [path for path in decoded if "/train/" in path]
    assert (
        sorted({Path(path).name for path in train})
        == sorted({path.name for path in (root / "train/dog").iterdir()})[-2:]
    )
    assert torch.equal(everything(again), plain)
    decoded.clear()
    load(root, cache=place, **options)
    assert decoded == []


def four_at_once(root: Path, cache: Path) -> None:
    """Four threads load one cached set, as four ranks of a host, and see the same."""
    found: list[torch.Tensor] = []

    def one() -> None:
        found.append(everything(load(root, cache=str(cache))))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(torch.equal(images, found[0]) for images in found)


def test_workers_share_the_decoding(
    root: Path, tmp_path: Path, decoded: list[str]
) -> None:
    """Four at once, as four ranks of a host: each image is decoded by one of them."""
    four_at_once(root, tmp_path / "cache")
    assert len(decoded) == len(set(decoded))


def test_workers_that_start_at_once_share_one_cache_file(
    root: Path, tmp_path: Path
) -> None:
    four_at_once(root, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*/*.npy"))) == 2


def test_resize_crops_the_centre_and_crop_size_cuts_it(root: Path) -> None:
    write_image(root / "train/cat/0.png", size=(12, 6))
    dataset = load(root, image_size=8, crop_size=4)
    assert dataset.image_shape == (3, 4, 4)
    assert everything(dataset).shape == (6, 3, 4, 4)
    augmented = load(root, image_size=8, crop_size=4, augment=True)
    assert augmented.image_shape == (3, 4, 4)
    assert everything(augmented).shape == (6, 3, 8, 8)
    assert augmented.test.batch(torch.arange(2)).shape == (2, 3, 4, 4)


def test_imagenet_layout_and_grey(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_image(tmp_path / part / "n01440764" / "n01440764_18.JPEG", size=(40, 30))
        write_image(tmp_path / part / "n01443537" / "n01443537_2.JPEG", size=(30, 50))
    dataset = load(tmp_path, image_size=16, channels=1, storage="lazy")
    assert dataset.classes == ("n01440764", "n01443537")
    assert everything(dataset).shape == (2, 1, 16, 16)


def test_root_may_hold_variables(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_IMAGES", str(root))
    assert len(load(Path("$SOME_IMAGES")).train) == 6
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(load(Path("~") / root.name).train) == 6
    with pytest.raises(UserError, match="NO_SUCH_PLACE: environment variable is not"):
        load(Path("$NO_SUCH_PLACE"))


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _remove(folder: Path) -> None:
    _empty(folder)
    folder.rmdir()


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is not an image")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("storage", ["memory", "lazy"])
@pytest.mark.parametrize(
    "harm, named",
    [
        (lambda root: _empty(root / "train/dog"), "train/dog"),
        (lambda root: _remove(root / "test/dog"), "test/dog"),
        (lambda root: _remove(root / "train/dog"), "train/dog"),
        (lambda root: _garbage(root / "train/dog/1.png"), "train/dog/1.png"),
        (lambda root: _cut(root / "train/cat/2.png"), "train/cat/2.png"),
        (lambda root: write_image(root / "train/dog/2.png", (7, 6)), "train/dog/2.png"),
        (lambda root: os.rename(root / "train", root / "training"), "train"),
        (lambda root: os.rename(root / "test", root / "testing"), "test"),
    ],
)
def test_errors_are_one_line_that_names_the_place(
    root: Path, harm: object, named: str, storage: str
) -> None:
    assert callable(harm)
    harm(root)
    with pytest.raises(UserError) as caught:
        everything(load(root, storage=storage))
    assert str(root / named) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_image_leaves_no_cache_file(root: Path, tmp_path: Path) -> None:
    _garbage(root / "train/dog/2.png")
    with pytest.raises(UserError, match="2.png is not an image"):
        load(root, cache=str(tmp_path / "cache"))
    files = [path for path in (tmp_path / "cache").glob("*/*") if path.is_file()]
    left = [path for path in files if path.suffix != ".lock"]
    assert left == []


def test_crop_larger_than_the_image_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match="data.crop_size: 9 is larger than the images"):
        load(root, crop_size=9)


@pytest.mark.skipif(
    "DATHVD_CIFAR10_JPEG" not in os.environ,
    reason="DATHVD_CIFAR10_JPEG names no folder of CIFAR-10 images",
)
def test_cifar10_jpeg() -> None:
    dataset = load(Path("$DATHVD_CIFAR10_JPEG"), storage="lazy")
    assert (len(dataset.train), len(dataset.test)) == (50_000, 10_000)
    assert dataset.image_shape == (3, 32, 32)
    assert dataset.train.labels.bincount().tolist() == [5000] * 10
