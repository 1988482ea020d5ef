"""torch's own optimizers, by the fields of a configuration."""

from __future__ import annotations

from torch.optim import SGD, AdamW

from dathvd.errors import UserError
from dathvd.optim.layerwise import Group


def sgd(
    params: list[Group], *, lr: float, momentum: float, nesterov: bool = False
) -> SGD:
    """SGD with momentum.

    Args:
        params: groups of parameters.
        lr: the learning rate.
        momentum: in [0, 1].
        nesterov: take the gradient's part of the step ahead (Sutskever et al., On the
            Importance of Initialization and Momentum, ICML 2013).

    Raises:
        UserError: nesterov without momentum.
    """
    if nesterov and momentum == 0:
        raise UserError("optimizer.options.nesterov: needs optimizer.momentum above 0")
    return SGD(params, lr=lr, momentum=momentum, nesterov=nesterov, foreach=True)


def adamw(
    params: list[Group], *, lr: float, beta1: float, beta2: float, eps: float
) -> AdamW:
    """AdamW, whose weight decay stands outside the moments."""
    return AdamW(params, lr=lr, betas=(beta1, beta2), eps=eps, foreach=True)
