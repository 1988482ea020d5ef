"""Memory and time that generated images cost the ranks of one host.

``python -m dathvd.benchmark.extra_images`` writes an ``.npy`` file of random images
(5.2 GB of 32×32 by default), and lets processes, each with a rank's share of the
batches, read it as ``data.extra`` does. Memory of a rank's own is what no file backs
(``Anonymous`` in Linux' ``/proc/PID/smaps_rollup``); the share of the file's pages is
what ``Pss`` has beside it, which counts a shared page once over all ranks.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import click

from dathvd.benchmark.medians import middle
from dathvd.errors import UserError, error_line
from dathvd.lists import some_integers

_BLOCK = 10_000
"""Random images that are drawn; the file repeats them."""
_PATIENCE = 600.0
"""Seconds after which ranks give up one that does not come."""


@dataclass(frozen=True)
class Cost:
    """What one rank has measured; memory in megabytes of 10⁶ bytes."""

    own: float
    """Memory that no file backs."""
    shared: float
    """The rank's part of the pages that files back."""
    first: float
    """Seconds from loading the data to the first batch."""
    step: float
    """Median seconds of the batches after it."""


@dataclass(frozen=True)
class Reading:
    """What every rank reads; None of ``extra`` for the other images alone."""

    extra: Path | None
    others: int
    batch_size: int
    ratio: float
    steps: int


@click.command()
@click.option("--images", type=click.IntRange(min=1), default=1_700_000)
@click.option("--image-size", type=click.IntRange(min=8), default=32)
@click.option("--others", type=click.IntRange(min=1), default=50_000)
@click.option("--ranks", default="1,2,4", help="Numbers of ranks.")
@click.option("--batch-size", type=click.IntRange(min=1), default=512)
@click.option("--ratio", type=click.FloatRange(0.0, 1.0), default=0.7)
@click.option("--steps", type=click.IntRange(min=2), default=300)
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(
    images: int,
    image_size: int,
    others: int,
    ranks: str,
    batch_size: int,
    ratio: float,
    steps: int,
    folder: Path | None,
) -> None:
    """Measure ranks that read a large file of extra images."""
    numbers = some_integers("--ranks", ranks, least=1)
    if not Path("/proc/self/smaps_rollup").exists():
        raise UserError(
            "memory is read from /proc/PID/smaps_rollup, which only Linux has"
        )
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary) / "images.npy"
        size = write_images(path, images, image_size)
        click.echo(
            f"{images:,} images of {image_size}×{image_size}, {size / 1e9:.2f} GB"
        )
        click.echo(
            "ranks  extra    own MB a rank  files' MB of all  first batch s  step ms"
        )
        for number in numbers:
            for extra in (None, path):
                reading = Reading(extra, others, batch_size, ratio, steps)
                forget(path)
                _report(number, extra is not None, measure(number, reading, image_size))


def write_images(path: Path, images: int, image_size: int) -> int:
    """Random images and labels as ``data.extra`` takes them; the file's bytes."""
    import numpy as np

    draws = np.random.default_rng(0)
    shape = (images, image_size, image_size, 3)
    block = draws.integers(256, size=(min(images, _BLOCK), *shape[1:]), dtype=np.uint8)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, images, len(block)):
            file.write(block[: images - first].data)
    np.save(path.with_name("labels.npy"), draws.integers(10, size=images))
    return path.stat().st_size


def forget(path: Path) -> None:
    """Write a file out and drop its pages from the operating system's cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(ranks: int, reading: Reading, image_size: int) -> list[Cost]:
    """Each rank's costs: processes that read at the same time."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(ranks, timeout=_PATIENCE)
    processes, ends = [], []
    for rank in range(ranks):
        here, there = context.Pipe(duplex=False)
        arguments = (rank, ranks, reading, image_size, together, there)
        process = context.Process(target=_rank, args=arguments, daemon=True)
        process.start()
        there.close()
        processes.append(process)
        ends.append(here)
    try:
        costs: list[Cost] = [end.recv() for end in ends]
    except EOFError:
        raise UserError(
            "a rank ended before it had measured: see its message"
        ) from None
    for process in processes:
        process.join()
    return costs


def _rank(
    rank: int,
    size: int,
    reading: Reading,
    image_size: int,
    together: Barrier,
    result: Connection,
) -> None:
    import torch

    from dathvd.config import load_config
    from dathvd.data import load_dataset
    from dathvd.training.batches import plan_of

    torch.set_num_threads(1)
    settings = [
        "data.name=synthetic",
        f"data.num_train={reading.others}",
        f"data.image_size={image_size}",
        "data.augment=true",
        f"train.batch_size={reading.batch_size}",
    ]
    if reading.extra is not None:
        settings += [f"data.extra={reading.extra}", f"data.extra_ratio={reading.ratio}"]
    config = load_config(None, settings)
    together.wait()
    began = time.perf_counter()
    plan = plan_of(config, load_dataset(config.data), torch.device("cpu"), rank, size)
    seconds = []
    for step in range(reading.steps):
        for _ in plan.step(step):
            pass
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    together.wait()
    own, shared = memory()
    together.wait()  # a rank that has ended shares no page any more
    result.send(Cost(own, shared, seconds[0], middle(seconds[1:])[0]))


def memory() -> tuple[float, float]:
    """This process's memory that no file backs, and its part of files' pages, in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    fields = dict(line.split(":", 1) for line in lines)

    def megabytes(name: str) -> float:
        return int(fields[name].split()[0]) * 1024 / 1e6

    return megabytes("Anonymous"), megabytes("Pss_File")


def _report(ranks: int, extra: bool, costs: Sequence[Cost]) -> None:
    own, spread = middle([cost.own for cost in costs])
    click.echo(
        f"{ranks:5}  {'yes' if extra else 'no':5}  {own:7.0f} ± {spread:3.0f}"
        f"  {sum(cost.shared for cost in costs):18.0f}"
        f"  {max(cost.first for cost in costs):13.1f}"
        f"  {middle([cost.step for cost in costs])[0] * 1e3:7.1f}"
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        click.echo(error_line(str(error)), err=True)
        sys.exit(error.exit_code)
