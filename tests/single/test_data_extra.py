"""Extra training images: where they land, and files that do not fit."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dathvd.config import DataConfig
from dathvd.data import Dataset, load_dataset, read_extra
from dathvd.errors import UserError

PIXELS = np.random.default_rng(1).integers(256, size=(5, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([0, 3, 1, 2, 3])


def write(path: Path, images: Any = PIXELS, labels: Any = LABELS) -> Path:
    if path.suffix == ".npz":
        np.savez(path, x_train=images, y_train=labels)
    else:
        content = {"data": images, "extrapolated_targets": labels}
        path.write_bytes(pickle.dumps(content))
    return path


def load(extra: Path) -> Dataset:
    return load_dataset(
        DataConfig(
            name="synthetic",
            num_train=4,
            image_size=8,
            num_classes=4,
            extra=str(extra),
        )
    )


@pytest.mark.parametrize("suffix", [".npz", ".pickle"])
def test_extra_images_follow_the_own_ones(tmp_path: Path, suffix: str) -> None:
    dataset = load(write(tmp_path / f"extra{suffix}"))
    assert len(dataset.train) == 9
    assert dataset.train.labels[4:].tolist() == LABELS.tolist()
    indices = torch.tensor([8, 0, 4, 3, 4])
    dataset.train.prefetch(indices)
    images = dataset.train.batch(indices)
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), PIXELS[4])
    assert np.array_equal(images[2].permute(1, 2, 0).numpy(), PIXELS[0])
    assert torch.equal(images[2], images[4])
    own = load_dataset(
        DataConfig(name="synthetic", num_train=4, image_size=8, num_classes=4)
    )
    assert torch.equal(images[[1, 3]], own.train.batch(torch.tensor([0, 3])))


def test_a_list_of_targets_is_read(tmp_path: Path) -> None:
    extra = read_extra(write(tmp_path / "tiny.pickle", labels=LABELS.tolist()))
    assert extra.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("augment", [False, True])
def test_whole_images_are_cropped_as_the_own_ones_are(
    augment: bool, tmp_path: Path
) -> None:
    """The files of ``dathvd pseudo-label`` hold whole images."""
    config = DataConfig(
        name="synthetic",
        num_train=4,
        image_size=8,
        crop_size=6,
        augment=augment,
        num_classes=4,
        extra=str(write(tmp_path / "extra.npz")),
    )
    dataset = load_dataset(config)
    images = dataset.train.batch(torch.tensor([4, 0]))
    middle = PIXELS[0] if augment else PIXELS[0, 1:7, 1:7]
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), middle)
    assert dataset.train.labels[4:].tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (PIXELS[:, :4], LABELS, "holds images of"),
        (PIXELS, LABELS + 1, "has label 4, the data set 4 classes"),
        (PIXELS, LABELS - 1, "must be 5 integers from 0"),
        (PIXELS[:4], LABELS, "must be 4 integers from 0"),
        (PIXELS.astype(float), LABELS, "must be uint8"),
    ],
)
def test_files_that_do_not_fit_are_named(
    tmp_path: Path, images: Any, labels: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(write(tmp_path / "extra.npz", images, labels))
    assert "extra.npz" in str(caught.value)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of .npz, .npy and .pickle"):
        load(tmp_path / "extra.pt")


@pytest.mark.parametrize(
    "keys",
    [
        ("image", "label"),
        ("images", "labels"),
        ("data", "labels"),
        ("x_train", "y_train"),
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".pickle"])
def test_the_keys_of_published_files_are_read(
    tmp_path: Path, keys: tuple[str, str], suffix: str
) -> None:
    path, content = tmp_path / f"extra{suffix}", dict(zip(keys, (PIXELS, LABELS)))
    if suffix == ".npz":
        np.savez(path, **{keys[0]: PIXELS, keys[1]: LABELS})  # type: ignore[arg-type]
    else:
        path.write_bytes(pickle.dumps({**content, "names": ["a"]}))
    extra = read_extra(path)
    assert extra.labels.tolist() == LABELS.tolist()
    assert np.array_equal(extra.images.permute(0, 2, 3, 1).numpy(), PIXELS)
    assert load(path).num_extra == len(LABELS)


@pytest.mark.parametrize(
    "images, labels",
    [("v6_data", "v6_labels"), ("images", "labels"), ("my-image", "my-label")],
)
def test_two_npy_files_are_a_pair(tmp_path: Path, images: str, labels: str) -> None:
    np.save(tmp_path / f"{images}.npy", PIXELS)
    path = tmp_path / f"{images}.npy"
    with pytest.raises(UserError, match=f"data.extra: .*{labels}.npy cannot be read"):
        read_extra(path)
    np.save(tmp_path / f"{labels}.npy", LABELS)
    assert read_extra(path).labels.tolist() == LABELS.tolist()


def test_an_npy_file_of_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must end in data, images, image"):
        read_extra(tmp_path / "extra.npy")


def test_wrong_keys_are_refused_with_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "extra.npz"
    np.savez(path, imgae=PIXELS, label=LABELS)
    with pytest.raises(UserError) as caught:
        read_extra(path)
    message = str(caught.value)
    assert message.startswith(f"data.extra: {path} holds 'imgae', 'label' ")
    assert "'imgae': did you mean 'image'?" in message
    assert "x_train/y_train, image/label" in message and "\n" not in message


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (PIXELS[:0], LABELS[:0], "holds no images"),
        ([[1, 2], [3]], LABELS, "inhomogeneous"),
        (PIXELS, [0, 1, [2], 3, 4], "inhomogeneous"),
        (PIXELS, np.full(5, 2**63, dtype=np.uint64), "must be 5 integers from 0"),
    ],
)
def test_nothing_and_nonsense_are_refused(
    images: Any, labels: Any, message: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "odd.pickle", images, labels)
    with pytest.raises(UserError, match=f"data.extra: .*odd.pickle: .*{message}"):
        read_extra(file)


def test_a_ratio_of_no_files_is_refused() -> None:
    with pytest.raises(ValueError, match="extra_ratio needs extra images"):
        DataConfig(extra=(), extra_ratio=0.5)
    assert len(load_dataset(DataConfig(extra=())).train) == 1438


def test_errors_of_unreadable_files_name_the_field(tmp_path: Path) -> None:
    for name in ("extra.npz", "extra.pickle", "data.npy"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(UserError, match=f"^data.extra: .*{name}"):
            read_extra(tmp_path / name)
