"""A folder of images as arrays: all labelled, a share labelled, the rest unlabelled."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from dathvd.config import DataConfig
from dathvd.data import Dataset, load_dataset
from dathvd.errors import UserError
from dathvd.files import make_folder, write_atomically

SHUFFLE_SEED = 0
"""The seed that decides which images keep their labels, and the order of the test
images."""


@dataclass(frozen=True)
class Files:
    """What ``prepare`` has written, and how much it is."""

    whole: Path
    """Every training image with its label, and the test images in a mixed order."""
    labelled: Path
    """The labelled share of each class, and the same test images."""
    unlabelled: Path
    """The images that lost their labels."""
    num_train: int
    num_labelled: int

    def to_json(self) -> dict[str, Any]:
        """Plain values, to be sent to other ranks."""
        return {k: v if isinstance(v, int) else str(v) for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Files:
        """What ``to_json`` gave."""
        paths = {k: Path(v) for k, v in fields.items() if isinstance(v, str)}
        return cls(**{**fields, **paths})


def prepare(config: DataConfig, folder: Path, share: float) -> Files:
    """Write the three files, where they are not there yet.

    The test images are shuffled, so that the first of them are a fair sample: a folder
    of classes lists the images of one class after another.

    Args:
        config: the data set.
        folder: where the files are kept.
        share: the share of each class's images that keep their labels, in (0, 1).

    Raises:
        UserError: the data set is not usable, a class would keep no label, or the
            folder holds another data set.
    """
    dataset = load_dataset(config)
    chosen = choose_labelled(dataset.train.labels, share)
    files = Files(
        folder / "whole.npz",
        folder / f"labelled-{share:g}.npz",
        folder / f"unlabelled-{share:g}.npy",
        len(dataset.train),
        int(chosen.sum()),
    )
    make_folder(folder)
    if files.whole.exists() and not _holds(files.whole, dataset):
        raise UserError(
            f"{files.whole}: holds another data set than data.name {config.name} is "
            "now; choose another --out"
        )
    everything = torch.ones_like(chosen)
    for path, part in ((files.whole, everything), (files.labelled, chosen)):
        if not path.exists():
            write_atomically(path, lambda file: _write_npz(file, dataset, part))
    if not files.unlabelled.exists():
        rest = dataset.train.batch((~chosen).nonzero().flatten()).numpy()
        write_atomically(files.unlabelled, lambda file: np.save(file, rest))
    return files


def choose_labelled(labels: Tensor, share: float) -> Tensor:
    """Bool ``[N]``: the same share of every class, by ``SHUFFLE_SEED``.

    Raises:
        UserError: a class would keep no label.
    """
    generator = torch.Generator().manual_seed(SHUFFLE_SEED)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        places = (labels == label).nonzero().flatten()
        count = round(share * len(places))
        if count == 0:
            raise UserError(f"--labelled {share:g}: leaves no label of class {label}")
        order = torch.randperm(len(places), generator=generator)
        chosen[places[order[:count]]] = True
    return chosen


def num_test(files: Files) -> int:
    """The number of test images."""
    with np.load(files.whole) as arrays:
        return len(arrays["y_test"])


def _holds(whole: Path, dataset: Dataset) -> bool:
    """Whether the file has that data set's labels, and the first of its images."""
    order, count = _test_order(dataset), 16
    first = dataset.train.batch(torch.arange(min(count, len(dataset.train))))
    expected = {
        "y_train": dataset.train.labels.numpy(),
        "y_test": dataset.test.labels[order].numpy(),
        "classes": np.array(dataset.classes),
    }
    with np.load(whole) as arrays:
        labelled = all(np.array_equal(arrays[k], v) for k, v in expected.items())
        return labelled and np.array_equal(arrays["x_train"][:count], first.numpy())


def _test_order(dataset: Dataset) -> Tensor:
    """The order in which the test images are written."""
    generator = torch.Generator().manual_seed(SHUFFLE_SEED)
    return torch.randperm(len(dataset.test), generator=generator)


def _write_npz(file: BinaryIO, dataset: Dataset, part: Tensor) -> None:
    own = part.nonzero().flatten()
    order = _test_order(dataset)
    np.savez(
        file,
        x_train=dataset.train.batch(own).numpy(),
        y_train=dataset.train.labels[own].numpy(),
        x_test=dataset.test.batch(order).numpy(),
        y_test=dataset.test.labels[order].numpy(),
        classes=np.array(dataset.classes),
    )
