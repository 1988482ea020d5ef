"""Augmented batches per second: in-memory and vectorised against a DataLoader.

``python -m dathvd.benchmark.step.loading`` prints a table of medians over interleaved
repeats. The DataLoader runs torchvision's usual transforms (padded random crop, flip,
to tensor) on one image at a time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import click


@click.command()
@click.option("--images", type=click.IntRange(min=1), default=5000, show_default=True)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=128, show_default=True
)
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
def main(images: int, batch_size: int, repeats: int) -> None:
    """Compare ways to load and augment random 3x32x32 images."""
    ways = _ways(images, batch_size)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, batches in ways.items():
            start = time.perf_counter()
            count = sum(batches())
            seconds[name].append(time.perf_counter() - start)
            assert count == images
    for name, times in seconds.items():
        median = statistics.median(times)
        spread = f"{min(times):.2f} to {max(times):.2f} s"
        click.echo(f"{name:28} {images / median:9.0f} images/s  ({spread} an epoch)")


def _ways(num_images: int, batch_size: int) -> dict[str, Callable[[], Iterator[int]]]:
    """Each way goes through one epoch and yields the sizes of its batches."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    from dathvd.config import DataConfig
    from dathvd.data import augment, epoch_batches, load_dataset
    from dathvd.noise import SampleNoise
    from dathvd.torchvision_shim import torchvision

    images = load_dataset(DataConfig(name="synthetic", num_train=num_images)).train
    transforms = torchvision.transforms
    transform = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ]
    )

    class OneByOne(Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return num_images

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            image = images.batch(torch.tensor([index]))[0]
            return transform(image), int(images.labels[index])

    def vectorised() -> Iterator[int]:
        for indices in epoch_batches(num_images, batch_size, seed=0, epoch=0):
            batch = images.batch(indices).float().div_(255)
            yield len(augment(batch, SampleNoise(0, indices)))

    def loader(num_workers: int) -> Callable[[], Iterator[int]]:
        loads = DataLoader(OneByOne(), batch_size, True, num_workers=num_workers)
        return lambda: (len(batch) for batch, _ in loads)

    return {
        "in memory, vectorised": vectorised,
        "DataLoader, no workers": loader(0),
        "DataLoader, 2 workers": loader(2),
    }


if __name__ == "__main__":
    main()
