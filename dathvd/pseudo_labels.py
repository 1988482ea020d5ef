"""Images without labels, labelled by a trained network.

Carmon et al., Unlabeled Data Improves Adversarial Robustness (NeurIPS 2019), train a
robust network on its own data and on images that another network, trained on the
labelled ones, has labelled. The file written here is one that ``data.extra`` takes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from dathvd import checkpoint
from dathvd.config import Config
from dathvd.data import CenterCrop, ImageSet, TensorImages, load_dataset, read_extra
from dathvd.data.arrays import channels_first, read_npz
from dathvd.data.decode import Decoder, decode_all
from dathvd.data.folder import SUFFIXES
from dathvd.data.lazy import FileImages
from dathvd.data.pickles import read_arrays
from dathvd.distributed.from_root import load_on_root
from dathvd.errors import UserError
from dathvd.files import check_place, explain_os_errors, write_atomically
from dathvd.foreign import foreign_network
from dathvd.report.progress import Progress
from dathvd.report.tables import plain_console
from dathvd.runtime import Runtime, sum_over_workers, together

_NAMES = ("x", "images", "image", "data", "x_train")
"""Names of the images in a file of several arrays, the likeliest first."""


@dataclass(frozen=True)
class Teacher:
    """A trained network and the images that it takes."""

    model: nn.Module
    config: Config
    image_shape: tuple[int, int, int]
    """(channels, height, width) of what the network gets."""
    num_classes: int

    @property
    def stored_shape(self) -> tuple[int, int | None, int | None]:
        """The same of images before they are cropped; None where any size will do."""
        channels, height, width = self.image_shape
        if self.config.data.crop_size is None:
            return channels, height, width
        return channels, self.config.data.image_size, self.config.data.image_size


def pseudo_label(
    run: str,
    source: Path,
    output: Path,
    runtime: Runtime,
    *,
    batch_size: int = 256,
    min_confidence: float = 0.0,
    weights: checkpoint.Weights = "raw",
    which: checkpoint.Which = "last",
    trust: checkpoint.Trust = False,
    foreign: Config | None = None,
) -> None:
    """Label images and write them with their labels; every rank calls it.

    The file holds ``x_train`` (uint8 ``[N, C, H, W]``), ``y_train`` (int64 ``[N]``, the
    likeliest class), ``confidence`` (float32 ``[N]``, its probability),
    ``probabilities`` (float32 ``[N, classes]``) and ``place`` (int64 ``[N]``: which of
    the given images it is). Labels do not depend on the number of workers.

    Args:
        run: a run or checkpoint folder of a classifier.
        source: a folder of image files, searched with its subfolders in order of name,
            or a file of images: .npy, .npz or the published .pickle of TinyImages.
        output: the .npz file.
        runtime: this worker's place.
        batch_size: images at once.
        min_confidence: leaves out images below it, in [0, 1].
        weights: the run's own (raw) or their average (ema, or its name).
        which: the run's last checkpoint or its best one.
        trust: whether the run's network may lie outside of dathvd.
        foreign: the settings of a network that is no run's, in its place.

    Raises:
        UserError: the run, the images or the output are not usable, or no image
            reaches ``min_confidence``.
    """
    together(runtime, lambda: _check_output(output, source))
    if foreign is not None:
        teacher = foreign_teacher(foreign, runtime)
    else:
        teacher = load_teacher(run, runtime, weights, trust, which)
    images = together(runtime, lambda: find_images(source, teacher, runtime.is_root))
    probabilities = predict(teacher, images, runtime, batch_size)
    confidence, labels = probabilities.max(dim=1)
    kept = (confidence >= min_confidence).nonzero().flatten()
    if len(kept) == 0:
        raise UserError(
            f"--min-confidence {min_confidence:g}: no image reaches it; the highest "
            f"confidence is {float(confidence.max()):.4g}"
        )

    def write() -> None:
        content = {
            "x_train": _stored(images).batch(kept),
            "y_train": labels[kept],
            "confidence": confidence[kept],
            "probabilities": probabilities[kept],
            "place": kept,
        }
        _write(output, {name: value.numpy() for name, value in content.items()})
        print_classes(labels[kept], confidence[kept], f"{output}, by {run}")
        print(f"{len(kept)} of {len(images)} images kept in {output}")

    together(runtime, lambda: write() if runtime.is_root else None)


def load_teacher(
    run: str,
    runtime: Runtime,
    weights: checkpoint.Weights = "raw",
    trust: checkpoint.Trust = False,
    which: checkpoint.Which = "last",
) -> Teacher:
    """The network of a run; rank 0 alone needs to see the file.

    Raises:
        UserError: there is none, it holds no such weights, or it has no classes.
    """
    name, state = load_on_root(
        runtime,
        lambda: checkpoint.resolve(run, which) / "model.pt",
        checkpoint.load_networks,
    )

    def restore() -> Teacher:
        model, config = checkpoint.restore_model(state, name, weights, trust=trust)
        if config.objective.is_self_supervised:
            raise UserError(
                f"run {run}: pre-trained by {config.objective.name}, it knows no "
                "classes; fine-tune it first (model.init)"
            )
        return Teacher(
            model.to(runtime.device),
            config,
            tuple(state["image_shape"]),
            int(state["num_classes"]),
        )

    return together(runtime, restore)


def foreign_teacher(config: Config, runtime: Runtime) -> Teacher:
    """A network that is no run's, for the images of its data set.

    Raises:
        UserError: on every rank, if it or the data set cannot be had.
    """
    dataset = together(runtime, lambda: load_dataset(config.data.without_extra()))
    model = foreign_network(config, dataset, runtime).to(runtime.device)
    return Teacher(model, config, dataset.image_shape, len(dataset.classes))


def find_images(source: Path, teacher: Teacher, in_memory: bool) -> ImageSet:
    """The images of a folder or file, as the teacher takes them, with labels 0.

    Args:
        source: a folder, or a .npy, .npz or .pickle file.
        teacher: whose data set's size and channels they get (image files) or must have
            (arrays).
        in_memory: decode all image files now, else each batch when it is needed.

    Raises:
        UserError: there are none, or they do not fit.
    """
    with _blame_the_images():
        if source.is_dir():
            images = _decoded(source, teacher, in_memory)
        else:
            images = _array(source, teacher)
    crop = teacher.config.data.crop_size
    return images if crop is None else CenterCrop(images, crop)


@torch.no_grad()
def predict(
    teacher: Teacher, images: ImageSet, runtime: Runtime, batch_size: int
) -> Tensor:
    """Probabilities float32 ``[N, classes]``, on every worker. A collective.

    The batches depend on ``batch_size`` alone and go round robin to the workers.
    """
    starts = range(0, len(images), batch_size)[runtime.rank :: runtime.size]
    progress = Progress("label", len(starts), silent=not runtime.is_root)
    probabilities = torch.zeros(len(images), teacher.num_classes)
    try:
        for done, start in enumerate(starts, 1):
            indices = torch.arange(start, min(start + batch_size, len(images)))
            inputs = images.batch(indices).to(runtime.device).float().div_(255)
            probabilities[indices] = teacher.model(inputs).softmax(dim=1).cpu()
            progress.update({"step": done})
    finally:
        progress.close()
    return sum_over_workers(runtime, probabilities, "labels")


def print_classes(labels: Tensor, confidence: Tensor, title: str) -> None:
    """How many images each class got, and how sure the teacher was."""
    table = Table(title=title)
    for name in ("class", "images", "mean confidence"):
        table.add_column(name, justify="right")
    for label in labels.unique().tolist():
        own = confidence[labels == label]
        table.add_row(str(label), str(len(own)), f"{float(own.mean()):.3f}")
    plain_console().print(table)


def _check_output(output: Path, source: Path) -> None:
    """Refuse, before any work, what could not be written."""
    if output.suffix != ".npz":
        raise UserError(f"--output {output}: must end in .npz")
    if output.exists() and source.exists() and output.samefile(source):
        raise UserError(f"--output {output}: holds the images; name another file")
    check_place("--output", output)


@contextmanager
def _blame_the_images() -> Iterator[None]:
    """Readers of data sets name ``data.root``: here it is the command's argument."""
    try:
        yield
    except UserError as error:
        _, _, text = str(error).rpartition("data.root: ")
        raise UserError(f"images: {text}") from None


def _decoded(folder: Path, teacher: Teacher, in_memory: bool) -> ImageSet:
    paths = sorted(
        os.path.join(place, file)
        for place, _, files in os.walk(folder)
        for file in files
        if os.path.splitext(file)[1].lower() in SUFFIXES
    )
    if not paths:
        raise UserError(f"{folder} holds no image files")
    channels, height, width = teacher.stored_shape
    size = height if height == width else None
    decoder = Decoder.for_images(paths[0], size, channels)
    _check_shape(folder, decoder.shape, teacher)
    labels = torch.zeros(len(paths), dtype=torch.int64)
    threads = teacher.config.data.num_threads
    if in_memory:
        return decode_all(decoder, paths, labels, threads)
    return FileImages(decoder, paths, labels, threads)


def _array(file: Path, teacher: Teacher) -> ImageSet:
    name, values = _read_array(file)
    images = channels_first(file, name, values)
    if len(images) == 0:
        raise UserError(f"{file}: {name} holds no images")
    _check_shape(file, tuple(images.shape[1:]), teacher)
    return TensorImages(images, torch.zeros(len(images), dtype=torch.int64))


def _read_array(file: Path) -> tuple[str, Any]:
    if file.suffix == ".npy":
        try:
            with explain_os_errors("read", file):
                return "array", np.load(file, mmap_mode="c", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise UserError(f"{file} cannot be read as .npy: {error}") from None
    if file.suffix not in (".npz", ".pickle"):
        raise UserError(f"{file} is neither a folder nor .npy, .npz or .pickle")
    content = read_npz(file) if file.suffix == ".npz" else read_arrays(file)
    for name in [*_NAMES, *(content if len(content) == 1 else [])]:
        if name in content:
            return name, np.asarray(content[name])
    raise UserError(f"{file} holds none of {', '.join(_NAMES)}")


def _check_shape(source: Path, shape: tuple[int, ...], teacher: Teacher) -> None:
    wanted = teacher.stored_shape
    crop = teacher.config.data.crop_size or 0
    for found, needed in zip(shape, wanted, strict=True):
        if found != (needed or found) or (needed is None and found < crop):
            raise UserError(
                f"{source} holds images of {list(shape)}, the run's data set of "
                f"{list(wanted)} (channels, height, width)"
            )


def _stored(images: ImageSet) -> ImageSet:
    """The images before they are cropped, as ``data.extra`` wants them."""
    return images.images if isinstance(images, CenterCrop) else images


def _write(output: Path, content: dict[str, Any]) -> None:
    """Write the file, and read it as training will."""

    def write(file: BinaryIO) -> None:
        np.savez(file, **content)

    write_atomically(output, write)
    again = read_extra(output)
    assert np.array_equal(again.images.numpy(), content["x_train"])
    assert np.array_equal(again.labels.numpy(), content["y_train"])
