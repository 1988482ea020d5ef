"""Clean and robust accuracy over all workers, each sample counted once.

The test set is cut into batches that depend on the configuration alone; the batches go
round robin to the workers. Random starts belong to the sample (``dathvd.noise``). Both
together make the result independent of the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dathvd.attacks import Attack, build_attack
from dathvd.config import AttackConfig
from dathvd.data import ImageSet
from dathvd.noise import SampleNoise, mix_seed
from dathvd.runtime import Runtime, sum_over_workers

# seeds of different uses must differ: evaluation never repeats training's starts
_EVALUATION = 0xE7A1


@dataclass(frozen=True)
class Accuracy:
    """Shares of correctly classified samples, in [0, 1]."""

    clean: float
    robust: float
    num_samples: int


def evaluate(
    model: nn.Module,
    images: ImageSet,
    attack_config: AttackConfig,
    *,
    runtime: Runtime,
    batch_size: int,
    seed: int,
    max_samples: int = 0,
    on_batch: Callable[[int, int], None] | None = None,
) -> Accuracy:
    """Clean accuracy, and accuracy on the worst example of all restarts.

    A sample counts as robust if it is right on the clean image and on the adversarial
    image of every restart.

    Args:
        model: from images in [0, 1] to logits; used in eval mode.
        images: the test set, equal on all workers.
        attack_config: the attack.
        batch_size: images at once; part of the result's definition only by rounding.
        seed: of the random starts.
        max_samples: use the first so many samples; 0 uses all.
        on_batch: called with (batches done here, batches of this worker).
    """
    num_samples = min(len(images), max_samples) if max_samples else len(images)
    attack = build_attack(attack_config)
    flags = torch.zeros(2, num_samples, dtype=torch.int32)
    starts = range(0, num_samples, batch_size)[runtime.rank :: runtime.size]
    mode = model.training
    model.eval()
    for done, start in enumerate(starts, 1):
        indices = torch.arange(start, min(start + batch_size, num_samples))
        clean, robust = _judge(model, images, attack, indices, runtime.device, seed)
        flags[0, indices], flags[1, indices] = clean.cpu().int(), robust.cpu().int()
        if on_batch is not None:
            on_batch(done, len(starts))
    model.train(mode)
    totals = sum_over_workers(runtime, flags, "evaluation")
    clean_count, robust_count = totals.sum(dim=1).tolist()
    return Accuracy(clean_count / num_samples, robust_count / num_samples, num_samples)


def _judge(
    model: nn.Module,
    images: ImageSet,
    attack: Attack,
    indices: Tensor,
    device: torch.device,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """For each sample: right when clean, right under attack. Bool ``[batch]`` each."""
    inputs = images.batch(indices).to(device).float().div_(255)
    labels = images.labels[indices].to(device)
    noise = SampleNoise(mix_seed(seed, _EVALUATION), indices.to(device))
    with torch.no_grad():
        clean = model(inputs).argmax(dim=1).eq(labels)
    _, correct = attack.worst_case(model, inputs, labels, noise)
    return clean, clean & correct
