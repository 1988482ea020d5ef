"""torch's own optimizers, by the fields of a configuration."""

from __future__ import annotations

from torch.optim import SGD, AdamW

from dathvd.optim.layerwise import Group


def sgd(params: list[Group], *, lr: float, momentum: float) -> SGD:
    """SGD with momentum."""
    return SGD(params, lr=lr, momentum=momentum, foreach=True)


def adamw(
    params: list[Group], *, lr: float, beta1: float, beta2: float, eps: float
) -> AdamW:
    """AdamW, whose weight decay stands outside the moments."""
    return AdamW(params, lr=lr, betas=(beta1, beta2), eps=eps, foreach=True)
