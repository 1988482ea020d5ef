"""Attacks that do not look at the network which they are judged on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dathvd.attacks import Attack, cross_entropy
from dathvd.attacks.attack import correct_on
from dathvd.attacks.network import gradient_if_any, in_mode
from dathvd.noise import SampleNoise


class TransferAttack(Attack):
    """Attacks a surrogate, and shows the result to the model.

    Papernot, McDaniel, Goodfellow: Transferability in Machine Learning, 2016. A model
    that falls to it and not to its own gradients hides them.

    Args:
        surrogate: another network for the same task, on the images' device.
        attack: what is run on it.
    """

    def __init__(self, surrogate: nn.Module, attack: Attack) -> None:
        self.surrogate = surrogate
        self.attack = attack

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Tensor:
        """The surrogate's adversarial images."""
        return self.attack(self.surrogate, images, labels, noise)

    def worst_case(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> tuple[Tensor, Tensor]:
        """The same, and where the model is right on them and on the clean images."""
        found = self(model, images, labels, noise)
        clean = correct_on(model, images, labels)
        return found, clean & correct_on(model, found, labels)

    def __repr__(self) -> str:
        return f"TransferAttack({self.attack})"


def has_gradient(
    model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
) -> Tensor:
    """Bool ``[batch]``: the cross-entropy's gradient at the image is finite, not 0."""
    with in_mode(model, training=False) as network, torch.enable_grad():
        inputs = images.detach().requires_grad_()
        loss = cross_entropy(network(inputs), labels, None).sum()
        gradient = gradient_if_any(inputs, loss)
    if gradient is None:
        return torch.zeros(len(images), dtype=torch.bool, device=images.device)
    largest = gradient.flatten(1).abs().amax(dim=1)
    return largest.isfinite() & (largest > 0)


class FlatGradient(nn.Module):
    """A network that gives no gradient for its images, with one that is 0 everywhere.

    So every attack can be tried on it, and what it fails to find is seen.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits + 0 * images.flatten(1).sum(dim=1, keepdim=True)
