"""LARS: momentum over directions that are scaled layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from dathvd.optim.layerwise import Group, LayerwiseOptimizer, norms


class LARS(LayerwiseOptimizer):
    """Momentum over gradients times a trust ratio for each tensor.

    You, Gitman, Ginsburg, Large Batch Training of Convolutional Networks (2017),
    algorithm 1: ``m = momentum m + ratio (g + weight_decay w)``, ``w -= lr m``, where
    ``ratio = trust_coefficient |w| / (|g| + weight_decay |w|)``. The learning rate
    stands outside the momentum, as in torch's SGD; with a constant one it is the same.

    Args:
        params: parameters or groups; a group may also set ``adapt`` (False: ratio 1).
        lr: learning rate.
        momentum: decay of the momentum, in [0, 1).
        weight_decay: added to the gradient, so that the ratio scales it.
        trust_coefficient: factor of every trust ratio (the paper's eta).
        min_weight_norm: the smallest weight norm that counts in the trust ratio.
        max_weight_norm: the largest one; None for no bound.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        trust_coefficient: float = 0.001,
        min_weight_norm: float = 0.0,
        max_weight_norm: float | None = None,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "trust_coefficient": trust_coefficient,
                "min_weight_norm": min_weight_norm,
                "max_weight_norm": max_weight_norm,
            },
        )

    def _update(
        self, group: Group, weights: list[Tensor], gradients: list[Tensor]
    ) -> None:
        decay = group["weight_decay"]
        updates = list(torch._foreach_add(gradients, weights, alpha=decay))
        momentum = self._moments("momentum", weights)
        torch._foreach_mul_(momentum, group["momentum"])
        if group["adapt"]:
            lengths = norms(gradients) + decay * norms(weights)
            ratios = self._trust(group, weights, lengths)
            torch._foreach_addcmul_(momentum, updates, ratios)
        else:
            torch._foreach_add_(momentum, updates)
        torch._foreach_add_(weights, momentum, alpha=-group["lr"])


def lars(
    params: list[Group],
    *,
    lr: float,
    momentum: float,
    trust_coefficient: float | None,
    min_weight_norm: float,
    max_weight_norm: float | None,
) -> LARS:
    """LARS by the fields of a configuration; a null trust coefficient is 0.001."""
    return LARS(
        params,
        lr=lr,
        momentum=momentum,
        trust_coefficient=0.001 if trust_coefficient is None else trust_coefficient,
        min_weight_norm=min_weight_norm,
        max_weight_norm=max_weight_norm,
    )
