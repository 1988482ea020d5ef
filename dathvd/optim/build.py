"""From a configuration to an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from dathvd.config import OptimizerConfig
from dathvd.errors import choose
from dathvd.optim.lamb import LAMB
from dathvd.optim.lars import LARS

Groups = list[dict[str, Any]]


def _trust(config: OptimizerConfig, published: float) -> dict[str, Any]:
    coefficient = config.trust_coefficient
    return {
        "trust_coefficient": published if coefficient is None else coefficient,
        "min_weight_norm": config.min_weight_norm,
        "max_weight_norm": config.max_weight_norm,
    }


def _lamb(groups: Groups, config: OptimizerConfig) -> Optimizer:
    return LAMB(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        bias_correction=config.bias_correction,
        **_trust(config, published=1.0),
    )


def _lars(groups: Groups, config: OptimizerConfig) -> Optimizer:
    return LARS(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        **_trust(config, published=0.001),
    )


def _sgd(groups: Groups, config: OptimizerConfig) -> Optimizer:
    return SGD(groups, lr=config.lr, momentum=config.momentum, foreach=True)


def _adamw(groups: Groups, config: OptimizerConfig) -> Optimizer:
    betas = (config.beta1, config.beta2)
    return AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, foreach=True)


OPTIMIZERS: dict[str, Callable[[Groups, OptimizerConfig], Optimizer]] = {
    "lamb": _lamb,
    "lars": _lars,
    "sgd": _sgd,
    "adamw": _adamw,
}


def build_optimizer(
    config: OptimizerConfig, named_parameters: Iterable[tuple[str, Tensor]]
) -> Optimizer:
    """The configured optimizer of those parameters.

    Biases and normalisation parameters (tensors of at most one dimension) form a group
    of their own where the configuration treats them apart.

    Raises:
        UserError: there is no optimizer of that name.
    """
    build = choose("optimizer.name", config.name, OPTIMIZERS)
    return build(_groups(config, [tensor for _, tensor in named_parameters]), config)


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
