"""A network of the same kind, trained for a moment, to attack in the model's place."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from dathvd.attacks import Attack, NoAttack
from dathvd.config import Config
from dathvd.data import Dataset, unaugmented
from dathvd.models import build_model
from dathvd.noise import SampleNoise, mix_seed
from dathvd.registry import is_foreign

_SURROGATE = 0x5A66
_BATCH = 64
_PEAK_LR = 3e-3


def _begin_anew(model: nn.Module) -> None:
    """Draw all weights, as a user's function may give a trained network."""
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()


def train_surrogate(
    config: Config,
    dataset: Dataset,
    *,
    num_steps: int,
    device: torch.device,
    attack: Attack = NoAttack(),
) -> nn.Module:
    """A fresh network of the run's architecture after ``num_steps`` steps of Adam.

    Args:
        config: of the run; its seed decides the surrogate too.
        dataset: its training set is used, without augmentation.
        num_steps: of batches of 64 images, the rate falling to 0.
        device: where it is trained.
        attack: on the training images.

    Returns:
        The network in eval mode, whose weights collect no gradient.
    """
    seed = mix_seed(config.seed, _SURROGATE)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        torch.manual_seed(seed)
        model = build_model(
            config.model,
            image_shape=dataset.image_shape,
            num_classes=len(dataset.classes),
        ).to(device)
        if is_foreign(config.model.name):
            _begin_anew(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=_PEAK_LR)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    generator = torch.Generator().manual_seed(seed)
    clean = unaugmented(dataset.train, dataset.image_shape)
    for step in range(num_steps):
        places = torch.randint(len(clean), (_BATCH,), generator=generator)
        images = clean.batch(places).to(device).float().div_(255)
        labels = clean.labels[places].to(device)
        noise = SampleNoise(mix_seed(seed, step), places.to(device))
        points = attack(model, images, labels, noise)
        loss = functional.cross_entropy(model.train()(points), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return model.eval().requires_grad_(False)
