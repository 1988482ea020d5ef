"""Adversarial weight perturbation: the worst weights nearby, not only inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dathvd.objectives.objective import Objective, Terms, Wrapping

_TINY = 1e-30
"""Keeps a zero gradient's perturbation zero."""


class WeightPerturbed(Wrapping):
    """An objective at the weights that one ascent step makes worse.

    Wu, Xia and Wang: Adversarial Weight Perturbation Helps Robust Generalization,
    NeurIPS 2020, eq. 8-11 with one step. Each weight tensor w with gradient g becomes
    w + v, v = gamma * |w| * g / |g|; tensors of fewer than two dimensions stay.

    The model's own weights never change: the forward pass takes the sums w + v, whose
    gradient in w is that in w + v, as the paper's update wants. The ascent asks
    autograd for the gradient alone, so that no hook of a distributed optimizer fires,
    and works on copies of the buffers. Every worker perturbs by its own batch's
    gradient: nothing is sent, at the price of a step that depends on how workers share
    the batch.

    Args:
        objective: the loss that is both raised by v and minimised at it.
        gamma: length of v over the length of w.
    """

    def __init__(self, objective: Objective, *, gamma: float) -> None:
        super().__init__(objective)
        self.gamma = gamma

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        adversarial: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
    ) -> Terms:
        """The wrapped objective's terms at the perturbed weights."""
        adversary = adversarial.detach()
        worse = self._perturbed(model, images, adversary, labels, weights)
        forward = _WithTensors(model, worse)
        return self.objective(forward, images, adversarial, labels, weights)

    def _perturbed(
        self,
        model: nn.Module,
        images: Tensor,
        adversarial: Tensor,
        labels: Tensor,
        weights: Tensor | None,
    ) -> dict[str, Tensor]:
        """Name to w + v, for every tensor that moves."""
        copies = {name: buffer.clone() for name, buffer in model.named_buffers()}
        forward = _WithTensors(model, copies)
        loss = self.objective(forward, images, adversarial, labels, weights).loss
        moved = {
            name: weight
            for name, weight in model.named_parameters()
            if weight.requires_grad and weight.dim() > 1
        }
        gradients = torch.autograd.grad(loss, list(moved.values()), allow_unused=True)
        return {
            name: weight + perturbation(weight.detach(), gradient, self.gamma)
            for (name, weight), gradient in zip(moved.items(), gradients)
            if gradient is not None
        }

    def __repr__(self) -> str:
        return f"WeightPerturbed({self.objective}, gamma={self.gamma:g})"


def perturbation(weight: Tensor, gradient: Tensor, gamma: float) -> Tensor:
    """v = gamma * |weight| * gradient / |gradient|, Euclidean lengths (AWP, eq. 10)."""
    length = gradient.norm().clamp_min(_TINY)
    v: Tensor = gradient * (gamma * weight.norm() / length)
    return v


class _WithTensors(nn.Module):
    """A model's forward pass with some of its parameters or buffers replaced."""

    def __init__(self, model: nn.Module, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self._model, self._tensors = model, tensors

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = functional_call(self._model, self._tensors, (images,))
        return logits
