"""Training loops to compare with, as their authors run them: eager, float32.

torch's own defaults decide the rest: NCHW; on GPUs, convolutions in TF32, matrix
products not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dathvd.config import AttackConfig

Step = Callable[[Tensor, Tensor], None]
"""One training step on images and labels."""
_LAMB_LR, _LAMB_DECAY, _LAMB_EPS = 0.01, 1e-4, 1e-6
_WIDEST_START = 1.25
"""Step over radius of the single-step attack."""


class TensorwiseLamb:
    """LAMB as the public code of distributed adversarial training steps: tensor by
    tensor, and with norms that the host compares."""

    def __init__(self, model: nn.Module) -> None:
        self._weights = list(model.parameters())
        self._moments = [
            (torch.zeros_like(weight), torch.zeros_like(weight))
            for weight in self._weights
        ]

    @torch.no_grad()
    def step(self) -> None:
        """Update every weight from its gradient."""
        for weight, (mean, square) in zip(self._weights, self._moments):
            if weight.grad is None:
                continue
            mean.mul_(0.9).add_(weight.grad, alpha=0.1)
            square.mul_(0.999).addcmul_(weight.grad, weight.grad, value=0.001)
            update = mean / square.sqrt().add(_LAMB_EPS)
            update.add_(weight, alpha=_LAMB_DECAY)
            length, change = weight.norm().clamp(0, 10), update.norm()
            if length == 0 or change == 0:
                ratio = 1.0
            else:
                ratio = (length / change).item()
            weight.add_(update, alpha=-_LAMB_LR * ratio)


def authors_step(model: nn.Module, attack: AttackConfig) -> Step:
    """The loop of Zhang et al. (UAI 2022): DAT-PGD or DAT-FGSM, and its LAMB.

    PGD in eval mode by input gradients, then CE(clean) + CE(attacked) in train mode.
    The single-step attack runs in train mode with a whole backward pass, and trains on
    the attacked images alone.
    """
    optimizer = TensorwiseLamb(model)

    def step(images: Tensor, labels: Tensor) -> None:
        if attack.name == "fgsm_rs":
            attacked = _single_step(model, images, labels, attack.epsilon)
            loss = F.cross_entropy(model(attacked), labels)
        else:
            attacked = _pgd(model, images, labels, attack)
            loss = F.cross_entropy(model(images), labels)
            loss = loss + F.cross_entropy(model(attacked), labels)
        model.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _pgd(
    model: nn.Module, images: Tensor, labels: Tensor, attack: AttackConfig
) -> Tensor:
    model.eval()
    epsilon = attack.epsilon
    points = images + torch.empty_like(images).uniform_(-epsilon, epsilon)
    points = points.clamp(0, 1)
    for _ in range(attack.num_steps):
        points = points.detach().requires_grad_()
        loss = F.cross_entropy(model(points), labels)
        (gradient,) = torch.autograd.grad(loss, points)
        points = points.detach() + attack.step_size * gradient.sign()
        points = torch.min(torch.max(points, images - epsilon), images + epsilon)
        points = points.clamp(0, 1)
    model.train()
    return points.detach()


def _single_step(
    model: nn.Module, images: Tensor, labels: Tensor, epsilon: float
) -> Tensor:
    delta = torch.empty_like(images).uniform_(-epsilon, epsilon).requires_grad_()
    F.cross_entropy(model(images + delta), labels).backward()
    assert delta.grad is not None
    moved = delta.detach() + _WIDEST_START * epsilon * delta.grad.sign()
    return (images + moved.clamp(-epsilon, epsilon)).clamp(0, 1)


def has_torchattacks() -> bool:
    """Whether torchattacks is installed."""
    return importlib.util.find_spec("torchattacks") is not None


def torchattacks_step(model: nn.Module, attack: AttackConfig) -> Step:
    """The same loop with the attack of torchattacks (3.5.1) and torch's fused SGD."""
    import torchattacks

    if attack.name == "fgsm_rs":
        theirs = torchattacks.FFGSM(
            model, eps=attack.epsilon, alpha=_WIDEST_START * attack.epsilon
        )
    else:
        theirs = torchattacks.PGD(
            model, eps=attack.epsilon, alpha=attack.step_size, steps=attack.num_steps
        )
    theirs.set_model_training_mode(model_training=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)

    def step(images: Tensor, labels: Tensor) -> None:
        attacked = theirs(images, labels)
        model.train()
        loss = F.cross_entropy(model(attacked), labels)
        if attack.name != "fgsm_rs":
            loss = loss + F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
