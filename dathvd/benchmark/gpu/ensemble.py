"""AutoAttack by this package and by its own code, on the same images and network."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dathvd.config import ModelConfig
from dathvd.evaluation.autoattack import AutoAttack
from dathvd.models import build_model
from dathvd.noise import SampleNoise

EPSILON = 8 / 255


@dataclass(frozen=True)
class EnsembleRow:
    """One network under standard AutoAttack, once by each code."""

    network: str
    num_samples: int
    own_code_seconds: float
    seconds: float
    speedup: float
    own_code_robust: float
    """Robust accuracy that its own code finds."""
    robust: float

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


def random_task(
    device: torch.device, config: ModelConfig, num_samples: int
) -> tuple[nn.Module, Tensor, Tensor]:
    """A network of random weights with images and its own predictions as labels.

    Nearly all fall to the first attack: the later ones have little to do.
    """
    torch.manual_seed(0)
    model = build_model(config, (3, 32, 32), 10).to(device).eval()
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(num_samples, 3, 32, 32, generator=generator).to(device)
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    return model, images, labels


def measure_autoattack(
    model: nn.Module, images: Tensor, labels: Tensor, name: str
) -> EnsembleRow:
    """Time both codes on the same images, in one batch.

    Args:
        model: in eval mode, from images to ten logits.
        images: ``[n, C, H, W]`` in [0, 1] on the model's device.
        labels: int64 ``[n]``.
        name: of the network, for the row.
    """
    import pyautoattack

    device, num_samples = images.device, len(images)
    began = _now(device)
    theirs = pyautoattack.AutoAttack(
        model, norm="Linf", eps=EPSILON, seed=0, version="standard", device=device
    )
    found = theirs.run_standard_evaluation(images, labels, batch_size=num_samples)[0]
    middle = _now(device)
    noise = SampleNoise(0, torch.arange(num_samples, device=device))
    ours = AutoAttack("linf", EPSILON, num_classes=10)
    _, correct = ours.worst_case(model, images, labels, noise)
    end = _now(device)
    with torch.no_grad():
        kept = model(found).argmax(dim=1) == labels
    return EnsembleRow(
        network=name,
        num_samples=num_samples,
        own_code_seconds=middle - began,
        seconds=end - middle,
        speedup=(middle - began) / (end - middle),
        own_code_robust=kept.float().mean().item(),
        robust=correct.float().mean().item(),
    )


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
