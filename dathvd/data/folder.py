"""Folders of image files: ROOT/train/CLASS/* and ROOT/test/CLASS/* (or ROOT/val)."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dathvd.config import DataConfig
from dathvd.data.cache import cached_images
from dathvd.data.decode import Decoder, decode_all
from dathvd.data.lazy import FileFrames, FileImages
from dathvd.data.paths import data_folder, expand
from dathvd.data.sets import Dataset, ImageSet
from dathvd.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"}
MEMORY_LIMIT = 2 << 30
"""Bytes of decoded images, counted as squares, up to which ``storage: auto`` keeps a
set in memory."""


def image_folder(config: DataConfig) -> Dataset:
    """The images of a folder per class, of one shape, with classes in sorted order.

    Raises:
        UserError: a folder or class is missing or empty, an image cannot be read, or
            sizes differ while ``image_size`` is not set.
    """
    root = data_folder(config)
    train, test = root / "train", _test_folder(root)
    classes = classes_of(train)
    missing = sorted(set(classes) ^ set(classes_of(test)))
    if missing:
        lacking = test if missing[0] in classes else train
        raise UserError(f"data.root: class folder {lacking / missing[0]} is missing")
    train_files = files_of(train, classes)
    test_files = in_turn(*files_of(test, classes))
    decoder = Decoder.for_images(train_files[0][0], config.image_size, config.channels)
    # a random crop is cut from all of an image, evaluation's from its middle
    cropped = config.augment and config.crop_size is not None
    frames = replace(decoder, whole=decoder.resize and cropped)
    return Dataset(
        train=_images(config, frames, train_files),
        test=_images(config, decoder, test_files),
        classes=tuple(classes),
        image_shape=decoder.shape,
    )


def _test_folder(root: Path) -> Path:
    for name in ("test", "val"):
        if (root / name).is_dir():
            return root / name
    raise UserError(f"data.root: {root / 'test'} is missing (and so is {root / 'val'})")


def classes_of(folder: Path, field: str = "data.root") -> list[str]:
    """The names of the class folders, sorted.

    Raises:
        UserError: there are none; ``field`` is what named the folder.
    """
    if not folder.is_dir():
        raise UserError(f"{field}: {folder} is missing")
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if entry.is_dir() and not entry.name.startswith(".")
        )
    if not names:
        raise UserError(f"{field}: {folder} holds no class folders")
    return names


def files_of(
    folder: Path, classes: list[str], field: str = "data.root"
) -> tuple[list[str], Tensor]:
    """All image files in order of class and name, with their labels.

    Raises:
        UserError: a class has none; ``field`` is what named the folder.
    """
    paths: list[str] = []
    counts: list[int] = []
    for name in classes:
        place = os.path.join(folder, name)
        found = sorted(
            file
            for file in os.listdir(place)
            if os.path.splitext(file)[1].lower() in SUFFIXES
        )
        if not found:
            raise UserError(f"{field}: class folder {place} holds no images")
        paths += [os.path.join(place, file) for file in found]
        counts.append(len(found))
    return paths, torch.arange(len(classes)).repeat_interleave(torch.tensor(counts))


def in_turn(paths: list[str], labels: Tensor) -> tuple[list[str], Tensor]:
    """The same files with classes taking turns, so that the first so many of them,
    which an evaluation may take, are of all classes.

    Args:
        paths: files in order of class.
        labels: int64 ``[paths]``, of theirs.
    """
    starts = torch.searchsorted(labels, labels)
    turns = torch.arange(len(labels)) - starts
    order = torch.argsort(turns, stable=True)
    return [paths[place] for place in order.tolist()], labels[order]


def _images(
    config: DataConfig, decoder: Decoder, files: tuple[list[str], Tensor]
) -> ImageSet:
    """Those files in the configured storage."""
    if config.cache is not None:
        folder = expand("data.cache", config.cache)
        return cached_images(folder, decoder, *files, config.num_threads)
    small = len(files[0]) * math.prod(decoder.shape) <= MEMORY_LIMIT
    if config.storage == "memory" or (config.storage == "auto" and small):
        return decode_all(decoder, *files, config.num_threads)
    lazy = FileFrames if decoder.whole else FileImages
    return lazy(decoder, *files, config.num_threads)
