"""GradAlign: input gradients that agree within the ball, so that one step suffices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dathvd.noise import SampleNoise
from dathvd.objectives.objective import Objective, Terms, Wrapping, weighted_mean

_STREAM = 140


class GradAligned(Wrapping):
    """objective + weight * (1 - cos(gradient at x, gradient at x + noise)).

    Andriushchenko and Flammarion, Understanding and Improving Fast Adversarial
    Training, NeurIPS 2020, section 4: noise is uniform in ±epsilon, the gradients are
    those of the clean cross-entropy in the inputs, and as in the authors' code the one
    at x is held fixed. The weights' gradient goes through an input gradient: two more
    forward passes and a double backward one.

    Args:
        objective: what else is trained on.
        weight: the paper's lambda (0.2 for CIFAR-10 at 8/255).
        epsilon: the radius, in pixel units.
    """

    def __init__(self, objective: Objective, *, weight: float, epsilon: float) -> None:
        super().__init__(objective)
        self.weight = weight
        self.epsilon = epsilon
        self._noise: SampleNoise | None = None

    def begin(self, noise: SampleNoise) -> None:
        """Take the noise of the batch that comes next."""
        self._noise = noise

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        adversarial: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
    ) -> Terms:
        """The wrapped objective's terms, with the loss of gradients that disagree."""
        terms = self.objective(model, images, adversarial, labels, weights)
        assert self._noise is not None
        draw = self._noise.uniform(images.shape, _STREAM).to(images.dtype)
        nearby = images + (2 * draw - 1) * self.epsilon
        here = _input_gradient(model, images, labels, differentiable=False)
        there = _input_gradient(model, nearby, labels, differentiable=True)
        turned = 1 - F.cosine_similarity(here, there, dim=1)
        # where a gradient is 0 there is no direction to align
        known = (here.abs().amax(dim=1) > 0) & (there.detach().abs().amax(dim=1) > 0)
        loss = weighted_mean(torch.where(known, turned, 0.0), weights)
        return Terms(
            terms.loss + self.weight * loss,
            terms.clean_logits,
            terms.adversarial_logits,
        )

    def __repr__(self) -> str:
        return f"GradAligned({self.objective}, weight={self.weight:g})"


def _input_gradient(
    model: nn.Module, images: Tensor, labels: Tensor, *, differentiable: bool
) -> Tensor:
    """The gradient of the summed cross-entropy in the images, ``[batch, values]``."""
    inputs = images.detach().requires_grad_()
    loss = F.cross_entropy(model(inputs), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, inputs, create_graph=differentiable)
    return gradient.unsqueeze(1).flatten(1)
