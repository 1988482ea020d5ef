"""The gradient that codecs are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dathvd.benchmark.step.trainers import batch_plan, build_trainer
from dathvd.config import Config
from dathvd.errors import UserError
from dathvd.files import explain_os_errors
from dathvd.tasks import load_task


@dataclass(frozen=True)
class Gradient:
    """A flat float32 vector, and what is known of it."""

    values: Tensor
    shapes: list[tuple[int, int]]
    """The matrices that it is made of, one after another."""
    previous: Tensor | None
    """The gradient of the step before: what powersgd starts from."""
    description: str


def random_gradient(num_values: int, seed: int = 0) -> Gradient:
    """A gradient of independent standard normal values."""
    values = torch.randn(num_values, generator=torch.Generator().manual_seed(seed))
    return Gradient(values, _as_matrix(num_values), None, "random normal values")


def read_gradient(path: Path) -> Gradient:
    """The gradient in a .npy file of floats, or in a tensor saved by ``torch.save``.

    Raises:
        UserError: the file cannot be read, or holds anything else.
    """
    with explain_os_errors("read", path):
        path.open("rb").close()
    try:
        if path.suffix == ".npy":
            loaded = torch.from_numpy(np.load(path, allow_pickle=False))
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"--gradient {path}: not a saved array: {reason}") from None
    if not isinstance(loaded, Tensor) or not loaded.is_floating_point():
        raise UserError(f"--gradient {path}: expected one array of floats")
    values = loaded.detach().to(torch.float32).reshape(-1)
    if not values.numel() or not values.isfinite().all():
        raise UserError(f"--gradient {path}: it is empty, or holds NaN or infinity")
    return Gradient(values, _as_matrix(values.numel()), None, str(path))


def training_gradient(config: Config, num_steps: int) -> Gradient:
    """The gradient of adversarial training step number ``num_steps``.

    Only tensors of two and more dimensions, in the order in which backward yields them:
    the others travel uncompressed.
    """
    dataset, device = load_task(config), torch.device("cpu")
    trainer = build_trainer(config, dataset, device)
    plan = batch_plan(config, dataset, device)
    named = list(trainer.model.named_parameters())
    large = [p for _, p in reversed(named) if p.ndim > 1 and p.requires_grad]
    gradients: list[Tensor] = []
    for step in range(num_steps):
        batches = list(plan.step(step))
        trainer.step(batches, config.optimizer.lr)
        gradients = [*gradients[-1:], _flat(large)]
    batch = sum(len(each.labels) for each in batches)
    shapes = [(len(p), p[0].numel()) for p in large]
    description = (
        f"{config.model.name} on {config.data.name}, {config.attack.name}-"
        f"{config.attack.num_steps} training, gradient of step {num_steps}"
        f" (batch {batch}), tensors of two and more dimensions"
    )
    previous = gradients[0] if num_steps > 1 else None
    return Gradient(gradients[-1], shapes, previous, description)


def _flat(parameters: list[torch.nn.Parameter]) -> Tensor:
    return torch.cat(
        [
            torch.zeros(p.numel()) if p.grad is None else p.grad.detach().reshape(-1)
            for p in parameters
        ]
    )


def _as_matrix(num_values: int) -> list[tuple[int, int]]:
    """One matrix, as square as the number allows without a remainder."""
    rows = int(num_values**0.5)
    while num_values % rows:
        rows -= 1
    return [(rows, num_values // rows)]
