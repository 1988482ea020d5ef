"""The makers of optimizers: a configuration becomes an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from dathvd.components import OPTIMIZERS as _OPTIMIZERS
from dathvd.config import OptimizerConfig
from dathvd.errors import UserError
from dathvd.optim.lamb import LAMB
from dathvd.optim.lars import LARS
from dathvd.registry import is_foreign

Groups = list[dict[str, Any]]
OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = _OPTIMIZERS
"""Makers of optimizers by name; their places are in ``dathvd.components``."""


def _trust(config: OptimizerConfig, published: float) -> dict[str, Any]:
    coefficient = config.trust_coefficient
    return {
        "trust_coefficient": published if coefficient is None else coefficient,
        "min_weight_norm": config.min_weight_norm,
        "max_weight_norm": config.max_weight_norm,
    }


def lamb(params: Groups, config: OptimizerConfig) -> Optimizer:
    """LAMB with all that the configuration says of it."""
    return LAMB(
        params,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        bias_correction=config.bias_correction,
        **_trust(config, published=1.0),
    )


def lars(params: Groups, config: OptimizerConfig) -> Optimizer:
    """LARS with all that the configuration says of it."""
    return LARS(
        params,
        lr=config.lr,
        momentum=config.momentum,
        **_trust(config, published=0.001),
    )


def sgd(params: Groups, config: OptimizerConfig) -> Optimizer:
    """torch's SGD."""
    return SGD(params, lr=config.lr, momentum=config.momentum, foreach=True)


def adamw(params: Groups, config: OptimizerConfig) -> Optimizer:
    """torch's AdamW, whose weight decay stands outside the moments."""
    betas = (config.beta1, config.beta2)
    return AdamW(params, lr=config.lr, betas=betas, eps=config.eps, foreach=True)


def build_optimizer(
    config: OptimizerConfig, named_parameters: Iterable[tuple[str, Tensor]]
) -> Optimizer:
    """The configured optimizer of those parameters.

    Biases and normalisation parameters (tensors of at most one dimension) form a group
    of their own where the configuration treats them apart.

    Raises:
        UserError: it lies elsewhere and cannot be imported or made, or its class not be
            called with parameter groups alone, as Horovod does.
    """
    groups = _groups(config, [tensor for _, tensor in named_parameters])
    optimizer: Optimizer = _OPTIMIZERS.build(config, params=groups, lr=config.lr)
    if is_foreign(config.name):
        _check_groups(optimizer, config.name)
    return optimizer


def _groups(config: OptimizerConfig, parameters: list[Tensor]) -> Groups:
    everything = {"adapt": True, "weight_decay": config.weight_decay}
    if config.adapt_vectors and config.decay_vectors:
        return [{"params": parameters, **everything}]
    vectors = {
        "adapt": config.adapt_vectors,
        "weight_decay": config.weight_decay if config.decay_vectors else 0.0,
    }
    groups = [
        {"params": [weight for weight in parameters if weight.ndim > 1], **everything},
        {"params": [weight for weight in parameters if weight.ndim <= 1], **vectors},
    ]
    return [group for group in groups if group["params"]]


def _check_groups(optimizer: Optimizer, name: str) -> None:
    """Refuse a class that Horovod, whose optimizer is a subclass, cannot make anew, or
    that does not step on gradients alone."""
    rebuild: Callable[..., Optimizer] = type(optimizer)
    weight = torch.zeros(1, requires_grad=True)
    weight.grad = torch.zeros(1)
    groups = [{**group, "params": [weight]} for group in optimizer.param_groups[:1]]
    try:
        rebuild(groups).step()
    except TypeError as error:
        raise UserError(
            f"optimizer.name: {name} cannot be made from parameter groups alone (give "
            f"its other parameters defaults), or needs a closure to step: {error}"
        ) from None
