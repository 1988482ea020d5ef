"""Data sets that need no files of their own, and arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dathvd.config import DataConfig
from dathvd.data import DATASETS, Dataset, load_dataset
from dathvd.errors import UserError


def load(**fields: Any) -> Dataset:
    return load_dataset(DataConfig.model_validate(fields))


def images_of(dataset: Dataset) -> torch.Tensor:
    return dataset.train.batch(torch.arange(len(dataset.train)))


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_data_set_is_whole_or_says_what_it_lacks(
    name: str, tmp_path: Path
) -> None:
    """Without files, one that needs them names the place where they should be."""
    try:
        dataset = load(name=name, root=str(tmp_path / "nowhere"))
    except UserError as error:
        assert str(error).startswith("data.root: ") and "nowhere" in str(error)
        assert "\n" not in str(error)
        return
    for part in (dataset.train, dataset.test):
        batch = part.batch(torch.tensor([0, len(part) - 1]))
        assert batch.dtype == torch.uint8 and batch.shape[1:] == dataset.image_shape
        assert part.labels.dtype == torch.int64 and len(part.labels) == len(part)
        assert 0 <= part.labels.min() and part.labels.max() < len(dataset.classes)


def test_digits_are_split_by_seed() -> None:
    first, same, other = load(), load(), load(split_seed=1)
    assert (len(first.train), len(first.test)) == (1438, 359)
    assert first.image_shape == (1, 8, 8)
    assert torch.equal(images_of(first), images_of(same))
    assert not torch.equal(images_of(first), images_of(other))
    assert images_of(first).max() == 255
    everything = torch.cat([images_of(first), first.test.batch(torch.arange(359))])
    again = torch.cat([images_of(other), other.test.batch(torch.arange(359))])
    assert everything.sum() == again.sum()


def test_digits_are_scikit_learns_wherever_it_keeps_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = load()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    theirs = load()
    assert torch.equal(images_of(ours), images_of(theirs))
    assert torch.equal(ours.train.labels, theirs.train.labels)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_empty_part_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="data.test_fraction"):
        load(test_fraction=share)


def test_synthetic_images_are_decided_by_the_seed() -> None:
    fields = dict(name="synthetic", num_train=5, num_test=3, num_classes=4)
    dataset = load(**fields, image_size=9, channels=1)
    assert images_of(dataset).shape == (5, 1, 9, 9)
    assert len(dataset.test) == 3 and len(dataset.classes) == 4
    assert torch.equal(images_of(load(**fields)), images_of(load(**fields)))
    assert not torch.equal(
        images_of(load(**fields)), images_of(load(**fields, split_seed=1))
    )


def save(path: Path, **arrays: NDArray[Any]) -> str:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


PIXELS = np.random.default_rng(0).integers(256, size=(6, 5, 4, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW"])
def test_arrays_in_every_layout(tmp_path: Path, layout: str) -> None:
    images = {
        "NHWC": PIXELS,
        "NCHW": PIXELS.transpose(0, 3, 1, 2),
        "NHW": PIXELS[..., 0],
    }[layout]
    root = save(
        tmp_path / "a.npz",
        x_train=images,
        y_train=LABELS,
        x_test=images[:2],
        y_test=LABELS[:2],
    )
    dataset = load(name="arrays", root=root)
    expected = PIXELS.transpose(0, 3, 1, 2)[:, : 1 if layout == "NHW" else 3]
    assert np.array_equal(images_of(dataset).numpy(), expected)
    assert dataset.train.labels.tolist() == LABELS.tolist()
    assert dataset.classes == ("0", "1", "2") and len(dataset.test) == 2


def test_arrays_without_a_test_part_are_split(tmp_path: Path) -> None:
    names = np.array(["a", "b", "c"])
    root = save(tmp_path / "a.npz", x_train=PIXELS, y_train=LABELS, classes=names)
    dataset = load(name="arrays", root=root, test_fraction=0.17)
    assert (len(dataset.train), len(dataset.test)) == (5, 1)
    assert dataset.classes == ("a", "b", "c")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x_train": PIXELS.astype(np.float32)}, "x_train must be uint8"),
        ({"x_train": PIXELS[..., :2]}, "x_train must be uint8"),
        ({"x_train": PIXELS[:5]}, "train has 5 images, 6 labels"),
        ({"y_train": LABELS - 1}, "y_train must be integers from 0"),
        ({"y_train": LABELS / 2}, "y_train must be integers from 0"),
        ({"y_train": LABELS + 1}, "class 0 has no training image"),
        ({"x_test": PIXELS[:, :2]}, "x_train and x_test differ in shape"),
        ({"classes": np.array(["a"])}, "1 classes for labels to 2"),
        ({"x_train": np.array([{}], dtype=object)}, "cannot be read"),
    ],
)
def test_bad_arrays_are_named(
    tmp_path: Path, change: dict[str, NDArray[Any]], message: str
) -> None:
    good = {"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS, "y_test": LABELS}
    root = save(tmp_path / "a.npz", **{**good, **change})
    with pytest.raises(UserError, match=message) as caught:
        load(name="arrays", root=root)
    assert "a.npz" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04cut"])
def test_other_files_are_no_arrays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match="a.npz cannot be read"):
        load(name="arrays", root=str(tmp_path / "a.npz"))
    with pytest.raises(UserError, match="none.npz cannot be read"):
        load(name="arrays", root=str(tmp_path / "none.npz"))


def test_channels_and_size_are_converted() -> None:
    """A grey image stays what it is; a constant one keeps its value at any size."""
    colour = load(channels=3)
    assert colour.image_shape == (3, 8, 8)
    assert torch.equal(images_of(colour)[:, 2], images_of(load())[:, 0])
    large = load(image_size=16)
    assert large.image_shape == (1, 16, 16)
    means = images_of(large).float().mean(), images_of(load()).float().mean()
    assert abs(float(means[0] - means[1])) < 0.5
    assert images_of(load(crop_size=6)).equal(images_of(load())[..., 1:7, 1:7])
