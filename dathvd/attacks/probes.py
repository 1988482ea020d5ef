"""Questions about a model on samples, answered sample by sample."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from dathvd.attacks.attack import Attack, correct_on
from dathvd.noise import SampleNoise

Probe = Callable[[nn.Module, Tensor, Tensor, SampleNoise], Tensor]
"""A function of (model in eval mode, images, labels, noise) that returns bool
``[batch]``: whether the model is right on each sample, after whatever is done to it."""


def survives(attack: Attack) -> Probe:
    """A probe: right on the clean image and on every restart's adversarial image."""

    def probe(
        model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Tensor:
        return attack.worst_case(model, images, labels, noise)[1]

    return probe


def right_on_clean(
    model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
) -> Tensor:
    """The probe of unattacked images."""
    return correct_on(model, images, labels)
