"""Image files per second: decode and crop, beside torchvision's DataLoader.

``python -m dathvd.benchmark.step.decoding`` writes photograph-like JPEGs, reads them as
a run does (``data.storage: lazy``, ``data.crop_size``) and as ImageNet's usual loader
does (ImageFolder, RandomResizedCrop, flip, to tensor, as many worker processes as we
have threads), in turn. It prints medians over the rounds.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np


@click.command()
@click.option("--images", type=click.IntRange(min=2), default=256, show_default=True)
@click.option("--height", type=click.IntRange(min=32), default=375, show_default=True)
@click.option("--width", type=click.IntRange(min=32), default=500, show_default=True)
@click.option("--size", type=click.IntRange(min=8), default=224, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
def main(
    images: int,
    height: int,
    width: int,
    size: int,
    threads: int,
    batch_size: int,
    repeats: int,
) -> None:
    """Compare ways to read and crop image files."""
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), images, (height, width))
        ways = {
            "dathvd": _ours(Path(folder), size, threads, batch_size),
            "torchvision's DataLoader": _theirs(
                Path(folder), size, threads, batch_size
            ),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats + 1):
            for name, epoch in ways.items():
                began = time.perf_counter()
                assert epoch() == images
                seconds[name].append(time.perf_counter() - began)
    rates = {name: images / statistics.median(t[1:]) for name, t in seconds.items()}
    for name, rate in rates.items():
        spread = f"{min(seconds[name][1:]):.2f} to {max(seconds[name][1:]):.2f} s"
        click.echo(f"{name:26} {rate / threads:7.0f} images/s a thread ({spread})")
    ours, theirs = rates.values()
    click.echo(f"dathvd reads {ours / theirs:.2f} times as many")


def write_photographs(root: Path, count: int, shape: tuple[int, int]) -> None:
    """JPEGs with smooth colours and some noise: one class, for training and test."""
    from PIL import Image

    draws = np.random.default_rng(0)
    for part, number in (("train", count), ("test", 1)):
        folder = root / part / "photographs"
        folder.mkdir(parents=True)
        for index in range(number):
            coarse = draws.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            smooth = np.asarray(Image.fromarray(coarse).resize(shape[::-1]))
            noisy = smooth + draws.integers(-12, 13, smooth.shape)
            stream = io.BytesIO()
            picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            picture.save(stream, "JPEG", quality=90)
            (folder / f"{index:05d}.jpg").write_bytes(stream.getvalue())


def _ours(root: Path, size: int, threads: int, batch: int) -> Callable[[], int]:
    import torch

    from dathvd.config import load_config
    from dathvd.data import load_dataset
    from dathvd.training.batches import plan_of

    torch.set_num_threads(1)
    settings = ["data.name=image_folder", f"data.root={root}", "data.storage=lazy"]
    settings += [f"data.image_size={round(size / 0.875)}", f"data.crop_size={size}"]
    settings += ["data.augment=true", f"data.num_threads={threads}"]
    config = load_config(None, [*settings, f"train.batch_size={batch}"])
    plan = plan_of(config, load_dataset(config.data), torch.device("cpu"), 0, 1)

    def epoch() -> int:
        steps = range(plan.steps_per_epoch)
        return sum(len(each.images) for step in steps for each in plan.step(step))

    return epoch


def _theirs(root: Path, size: int, threads: int, batch: int) -> Callable[[], int]:
    from torch.utils.data import DataLoader

    from dathvd.torchvision_shim import torchvision

    transforms = torchvision.transforms
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ]
    )
    files = torchvision.datasets.ImageFolder(str(root / "train"), transform)
    loader = DataLoader(
        files,
        batch,
        shuffle=True,
        num_workers=threads,
        persistent_workers=True,
    )
    return lambda: sum(len(images) for images, _ in loader)


if __name__ == "__main__":
    main()
