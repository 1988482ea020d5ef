"""The training step as benchmarks run it: the product's own, on chosen data."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch

from dathvd.config import Config
from dathvd.data import Dataset
from dathvd.devices import set_up_device
from dathvd.training.batches import BatchPlan, plan_of
from dathvd.training.build import Wrap, build_training, first_model
from dathvd.training.step import Trainer

# (size, channels, classes) of data sets that have their own; of others the
# configuration tells them, or they are like CIFAR-10's.
_NATIVE = {
    "digits": (8, 1, 10),
    "mnist": (28, 1, 10),
    "fashion_mnist": (28, 1, 10),
    "cifar100": (32, 3, 100),
}
_USUAL = (32, 3, 10)


def synthetic_data(config: Config, num_images: int) -> Config:
    """The configuration with random images of the same shape as its data set's."""
    data = config.data
    size, channels, classes = _NATIVE.get(data.name, _USUAL)
    changed = data.model_copy(
        update={
            "name": "synthetic",
            "root": None,
            "image_size": data.image_size or size,
            "channels": data.channels or channels,
            "num_classes": classes if data.name in _NATIVE else data.num_classes,
            "num_train": num_images,
            "num_test": 1,
            "extra": None,
            "extra_ratio": None,
            "cache": None,
            "options": {},
        }
    )
    return config.model_copy(update={"data": changed})


def with_batch_size(config: Config, batch_size: int | None) -> Config:
    """The configuration with so many images a step; None leaves it as it is."""
    if batch_size is None:
        return config
    train = config.train.model_copy(update={"batch_size": batch_size})
    return config.model_copy(update={"train": train})


def batch_plan(
    config: Config, dataset: Dataset, device: torch.device, rank: int = 0, size: int = 1
) -> BatchPlan:
    """The batches of one worker, by default of one that is alone."""
    return plan_of(config, dataset, device, rank, size)


def build_trainer(
    config: Config, dataset: Dataset, device: torch.device, wrap: Wrap | None = None
) -> Trainer:
    """A trainer whose optimizer is the wrapped one; alone, it exchanges nothing.

    Its first weights are random also where ``model.init`` names others: a step takes as
    long with any. A helper (``objective.helper``) is a network of the same kind.
    """
    set_up_device(device, config.train)
    helper = None
    if config.objective.helper is not None:
        helper = first_model(config, dataset).eval().requires_grad_(False).to(device)
    return build_training(
        config, first_model(config, dataset), device, wrap=wrap, helper=helper
    )


@dataclass
class Stopwatch:
    """Seconds by phase; a trainer's ``mark``."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    _then: float = 0.0

    def start(self) -> None:
        """Begin a step."""
        self.seconds = {}
        self._then = self._now()

    def mark(self, phase: str) -> None:
        """Count the time since the last mark to ``phase``."""
        now = self._now()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._then
        self._then = now

    def total(self) -> float:
        """Of all phases since the start."""
        return sum(self.seconds.values())

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # a benchmark may wait, training not
        return time.perf_counter()
