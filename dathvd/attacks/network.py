"""The model as an attack sees it: in its mode, and left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dathvd.attacks.forward import Forward
from dathvd.attacks.twin import Network, in_bf16, twin_of
from dathvd.errors import UserError

__all__ = [
    "Network",
    "attacked",
    "gradient_at",
    "gradient_if_any",
    "in_mode",
    "no_gradient",
]


def gradient_at(inputs: Tensor, value: Tensor) -> Tensor:
    """The gradient of a scalar with respect to images.

    Raises:
        UserError: the network leaves none, whatever the images are.
    """
    gradient = gradient_if_any(inputs, value)
    if gradient is None:
        raise no_gradient()
    return gradient


def gradient_if_any(inputs: Tensor, value: Tensor) -> Tensor | None:
    """The same; None where the network leaves none."""
    if not value.requires_grad:
        return None
    (gradient,) = torch.autograd.grad(value, inputs, allow_unused=True)
    found: Tensor | None = gradient
    return found


def no_gradient() -> UserError:
    """The error of attacks by gradients on a network that has none."""
    return UserError(
        "the network gives no gradient for its images (it detaches them, or computes "
        "outside of torch): no attack by gradients can judge it; evaluate --attack "
        "noise,spatial and dathvd sanity can"
    )


@contextmanager
def attacked(model: nn.Module, forward: Forward) -> Iterator[Network]:
    """The model as an attack runs it; as before afterwards."""
    with in_mode(model, forward.training) as network:
        twin = twin_of(model, forward) if forward.wants_twin else None
        if twin is not None:
            yield twin
        else:
            yield in_bf16(network) if forward.bf16 else network


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[Network]:
    """The model in train or eval mode; each module's own mode comes back after it.

    In train mode the forward passes work on copies of the buffers, so that batch-norm
    statistics stay as they were; without copies or comparisons on the host.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.train(training)
        yield _with_own_buffers(model) if training else model
    finally:
        for module, mode in modes:
            module.training = mode


def _with_own_buffers(model: nn.Module) -> Network:
    copies = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def forward(images: Tensor) -> Tensor:
        logits: Tensor = functional_call(model, copies, (images,))
        return logits

    return forward
