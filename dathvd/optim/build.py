"""The makers of optimizers: a configuration becomes an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from dathvd.components import OPTIMIZERS as _OPTIMIZERS
from dathvd.config import OptimizerConfig
from dathvd.errors import UserError
from dathvd.optim.depth import rate_share
from dathvd.optim.layerwise import Group
from dathvd.optim.start import leave_out_compiler
from dathvd.registry import is_foreign

OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = _OPTIMIZERS
"""Makers of optimizers by name; their places are in ``dathvd.components``."""


def build_optimizer(
    config: OptimizerConfig,
    named_parameters: Iterable[tuple[str, Tensor]],
    depths: Mapping[str, int] | None = None,
) -> Optimizer:
    """The configured optimizer of those parameters.

    Biases and normalisation parameters (tensors of at most one dimension) form a group
    of their own where the configuration treats them apart, and so does each depth where
    the rate decays from layer to layer: ``rate_share`` of its group is the share of the
    rate that it has.

    Args:
        config: the optimizer.
        named_parameters: what it updates.
        depths: of the parameters by name, see ``dathvd.optim.depth``; None for one
            depth.

    Raises:
        UserError: it lies elsewhere and cannot be imported or made, or its class not be
            called with parameter groups alone, as Horovod does.
    """
    leave_out_compiler()
    named = list(named_parameters)
    if depths is None:
        groups = _groups(config, [tensor for _, tensor in named])
    else:
        groups = _by_depth(config, named, depths)
    optimizer: Optimizer = _OPTIMIZERS.build(config, params=groups, lr=config.lr)
    if is_foreign(config.name):
        _check_groups(optimizer, config.name)
    return optimizer


def _by_depth(
    config: OptimizerConfig,
    named: list[tuple[str, Tensor]],
    depths: Mapping[str, int],
) -> list[Group]:
    """The groups of each depth, with its share of the learning rate."""
    deepest = max(depths.values())
    found = []
    for depth in sorted({depths[name] for name, _ in named}):
        own = [tensor for name, tensor in named if depths[name] == depth]
        share = rate_share(depth, deepest, config.layer_decay)
        found += [{**group, "rate_share": share} for group in _groups(config, own)]
    return found


def _groups(config: OptimizerConfig, parameters: list[Tensor]) -> list[Group]:
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
