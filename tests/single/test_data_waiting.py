"""Image files are decoded while the network computes, so that it need not wait."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dathvd.data.lazy import FileImages
from dathvd.noise import SampleNoise
from dathvd.training.batches import BatchPlan

BATCH, THREADS = 8, 4
DECODING = 0.01  # seconds of a file
DECODED = DECODING * BATCH / THREADS  # of a batch, by all threads


class Slow:
    """A decoder that takes its time and, as real ones do, lets other threads run."""

    shape = (3, 2, 2)

    def __call__(self, path: str) -> NDArray[np.uint8]:
        time.sleep(DECODING)
        return np.full(self.shape, int(Path(path).stem), dtype=np.uint8)


def waits(computing: float) -> list[float]:
    """Seconds of each step in which a network that computes so long has no images."""
    count = 12 * BATCH
    paths = [f"{index}.png" for index in range(count)]
    decoder: Any = Slow()
    images = FileImages(decoder, paths, torch.arange(count), THREADS)
    plan = BatchPlan(images, BATCH, 1, 0, 1, 0, None, torch.device("cpu"))
    found = []
    for step in range(12):
        began = time.perf_counter()
        (batch,) = plan.step(step)
        found.append(time.perf_counter() - began)
        seen = (batch.images[:, 0, 0, 0] * 255).round().long()
        assert torch.equal(seen, batch.labels)
        time.sleep(computing)
    return found[1:]  # nothing could be decoded ahead of the first


@pytest.mark.slow
@pytest.mark.parametrize("times", [1.5, 4.0])
def test_no_wait_where_decoding_takes_less_than_the_step(times: float) -> None:
    assert median(waits(times * DECODED)) < 0.25 * DECODED


@pytest.mark.slow
def test_the_wait_is_what_decoding_takes_longer_than_the_step() -> None:
    assert median(waits(0.0)) > 0.8 * DECODED
    assert 0.3 * DECODED < median(waits(0.5 * DECODED)) < 0.9 * DECODED


def test_the_next_files_are_decoded_while_this_batch_is_augmented() -> None:
    decoded: set[int] = set()
    enough = threading.Event()

    class Recorded(Slow):
        def __call__(self, path: str) -> NDArray[np.uint8]:
            image = super().__call__(path)
            decoded.add(int(Path(path).stem))
            if len(decoded) == 2 * BATCH:
                enough.set()
            return image

    def augment(images: Any, noise: SampleNoise) -> torch.Tensor:
        assert enough.wait(20), f"only {sorted(decoded)} were decoded meanwhile"
        return torch.as_tensor(images)

    count = 3 * BATCH
    decoder: Any = Recorded()
    paths = [f"{index}.png" for index in range(count)]
    images = FileImages(decoder, paths, torch.arange(count), THREADS)
    plan = BatchPlan(images, BATCH, 1, 0, 1, 0, augment, torch.device("cpu"))
    (batch,) = plan.step(0)
    assert set(batch.labels.tolist()) < decoded
