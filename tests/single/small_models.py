"""Small networks and batches for the tests of attacks and objectives."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dathvd.config import load_config
from dathvd.models import MODELS, build_model
from dathvd.models.residual import _robust_wide_resnet
from dathvd.noise import SampleNoise

narrow_ra_wide_resnet = _robust_wide_resnet(32, (32, 64, 64), (1, 1, 1))
NARROW = {"ra_wide_resnet_70_16": "narrow_ra_wide_resnet"}
"""What stands for a network whose training takes ten gigabytes: its own blocks."""


def trainable(name: str) -> str:
    """The network of that name, or what stands for it, as ``model.name`` takes it."""
    return f"tests.single.small_models:{NARROW[name]}" if name in NARROW else name


@functools.cache
def one_of_each_kind() -> list[str]:
    """Of the networks that are made of the same kinds of layers, the smallest.

    They differ in depth and width alone: what holds of one does of the others.
    """
    smallest: dict[frozenset[type], tuple[int, str]] = {}
    for name in MODELS:
        with torch.device("meta"):  # shapes without values
            config = load_config(None, [f"model.name={name}"])
            model = build_model(config.model, (3, 32, 32), num_classes=10)
        kinds = frozenset(map(type, model.modules()))
        size = sum(weight.numel() for weight in model.parameters())
        smallest[kinds] = min((size, name), smallest.get(kinds, (size, name)))
    return [name for _, name in smallest.values()]


def network(
    shape: tuple[int, ...] = (3, 6, 5),
    classes: int = 4,
    batch_norm: bool = True,
    seed: int = 0,
) -> nn.Module:
    """A convolution, its batch norm with lived-in statistics, SiLU and a linear layer.

    Smooth and in float64, so that two right implementations agree to rounding after
    any number of sign steps.
    """
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(5) if batch_norm else nn.Identity()
    model = nn.Sequential(
        nn.Conv2d(shape[0], 5, 3, padding=1),
        norm,
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(5 * shape[1] * shape[2], classes),
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.2 * torch.rand_like(buffer))
    return model


def batch(
    size: int = 6, shape: tuple[int, ...] = (3, 6, 5), classes: int = 4, seed: int = 1
) -> tuple[Tensor, Tensor, SampleNoise]:
    """Images, labels and their noise; some pixels lie on the box's faces."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((size, *shape), generator=generator, dtype=torch.float64)
    images = images.mul(1.2).sub(0.1).clamp(0, 1)
    labels = torch.randint(classes, (size,), generator=generator)
    return images, labels, SampleNoise(seed, torch.arange(size))


def lengths(values: Tensor, norm: str) -> Tensor:
    """The linf, l2 or l1 length of each sample."""
    flat = values.flatten(1)
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    length: Tensor = torch.linalg.vector_norm(flat, ord=order, dim=1)
    return length


@contextmanager
def nothing_changes(model: nn.Module, *tensors: Tensor) -> Iterator[None]:
    """Fails if modes, weights, their flags or gradients, buffers or tensors change."""

    def state() -> list[object]:
        return [module.training for module in model.modules()] + [
            (weight.requires_grad, weight.grad is None) for weight in model.parameters()
        ]

    def values() -> list[Tensor]:
        weights = list(model.parameters())
        grads = [weight.grad for weight in weights if weight.grad is not None]
        return [*weights, *grads, *model.buffers(), *tensors]

    before, copies = state(), [value.detach().clone() for value in values()]
    try:
        yield
    finally:
        assert state() == before
        for value, copy in zip(values(), copies, strict=True):
            assert torch.equal(value, copy)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """A block in which torch computes on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
