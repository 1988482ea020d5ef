"""Folders of image files: ROOT/train/CLASS/* and ROOT/test/CLASS/* (or ROOT/val)."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from dathvd.config import DataConfig
from dathvd.data.decode import decode_all, own_shape
from dathvd.data.sets import Dataset, TensorImages
from dathvd.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"}


def image_folder(config: DataConfig) -> Dataset:
    """The images of a folder per class, of one shape, with classes in sorted order.

    Raises:
        UserError: a folder or class is missing or empty, an image cannot be read, or
            sizes differ while ``image_size`` is not set.
    """
    root = data_root(config)
    train, test = root / "train", _test_folder(root)
    classes = _classes(train)
    missing = sorted(set(classes) ^ set(_classes(test)))
    if missing:
        lacking = test if missing[0] in classes else train
        raise UserError(f"data.root: {lacking / missing[0]}: class folder is missing")
    train_paths, train_labels = _files(train, classes)
    test_paths, test_labels = _files(test, classes)
    shape = own_shape(train_paths[0], config.image_size, config.channels)
    resize = config.image_size is not None
    return Dataset(
        train=TensorImages(
            decode_all(train_paths, shape, resize), torch.tensor(train_labels)
        ),
        test=TensorImages(
            decode_all(test_paths, shape, resize), torch.tensor(test_labels)
        ),
        classes=tuple(classes),
        image_shape=shape,
    )


def data_root(config: DataConfig) -> Path:
    """``data.root`` with ``~`` and environment variables put in.

    Raises:
        UserError: it is not set, names an unknown variable, or is not a folder.
    """
    if config.root is None:
        raise UserError(f"data.root: must be set for data.name {config.name!r}")
    expanded = os.path.expandvars(os.path.expanduser(config.root))
    if "$" in expanded:
        raise UserError(f"data.root: {config.root}: environment variable is not set")
    root = Path(expanded)
    if not root.is_dir():
        raise UserError(f"data.root: {root} is not a folder")
    return root


def _test_folder(root: Path) -> Path:
    for name in ("test", "val"):
        if (root / name).is_dir():
            return root / name
    raise UserError(
        f"data.root: {root / 'test'} is missing (nor is there {root / 'val'})"
    )


def _classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UserError(f"data.root: {folder} is missing")
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if entry.is_dir() and not entry.name.startswith(".")
        )
    if not names:
        raise UserError(f"data.root: {folder} holds no class folders")
    return names


def _files(folder: Path, classes: list[str]) -> tuple[list[Path], list[int]]:
    """All image files in order of class and name, with their labels."""
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        with os.scandir(folder / name) as entries:
            found = sorted(
                entry.name
                for entry in entries
                if os.path.splitext(entry.name)[1].lower() in SUFFIXES
            )
        if not found:
            raise UserError(f"data.root: {folder / name} holds no images")
        paths += [folder / name / file for file in found]
        labels += [label] * len(found)
    return paths, labels
