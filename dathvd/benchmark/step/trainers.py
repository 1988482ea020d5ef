"""The training step as benchmarks run it: the product's own, on chosen data."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from dathvd.attacks import build_attack
from dathvd.config import Config, DataConfig
from dathvd.data import Dataset, build_augmentation
from dathvd.devices import set_up_device
from dathvd.models import build_model
from dathvd.objectives import build_objective
from dathvd.optim import build_optimizer
from dathvd.training.batches import BatchPlan, extra_of
from dathvd.training.passes import lay_out, training_pass
from dathvd.training.step import Totals, Trainer

# of data sets whose images have one size; others are resized to data.image_size
_DIGITS = {"image_size": 8, "channels": 1}


def synthetic_data(config: Config, num_images: int) -> Config:
    """The configuration with random images of the same shape as its data set's."""
    data = config.data
    known = _DIGITS if data.name == "digits" else {"image_size": 32, "channels": 3}
    changed = DataConfig(
        name="synthetic",
        image_size=data.image_size or known["image_size"],
        channels=data.channels or known["channels"],  # type: ignore[arg-type]
        num_classes=data.num_classes,
        num_train=num_images,
        num_test=1,
        augment=data.augment,
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
    """The batches of one worker."""
    return BatchPlan(
        images=dataset.train,
        batch_size=config.train.batch_size,
        passes=config.train.backward_passes_per_step,
        rank=rank,
        size=size,
        seed=config.seed,
        augment=build_augmentation(config.data),
        device=device,
        extra=extra_of(config.data, dataset),
    )


NamedParameters = list[tuple[str, torch.nn.Parameter]]
Wrap = Callable[[torch.optim.Optimizer, NamedParameters], torch.optim.Optimizer]


def build_trainer(
    config: Config, dataset: Dataset, device: torch.device, wrap: Wrap | None = None
) -> Trainer:
    """A trainer whose optimizer is the wrapped one; alone, it exchanges nothing."""
    torch.manual_seed(config.seed)
    model = build_model(
        config.model,
        image_shape=dataset.image_shape,
        num_classes=len(dataset.classes),
    ).to(device)
    set_up_device(device, config.train)
    lay_out(model, config.train)
    named = list(model.named_parameters())
    optimizer = build_optimizer(config.optimizer, named)
    return Trainer(
        model.train(),
        build_attack(config.attack),
        build_objective(config.objective),
        optimizer if wrap is None else wrap(optimizer, named),
        Totals.zero(device),
        network=training_pass(model, config.train),
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
