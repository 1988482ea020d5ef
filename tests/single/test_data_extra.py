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
    with pytest.raises(UserError, match="neither .npz nor .pickle"):
        load(tmp_path / "extra.pt")
