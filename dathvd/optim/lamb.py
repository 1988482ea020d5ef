"""LAMB: Adam's direction, scaled layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from dathvd.optim.layerwise import Group, LayerwiseOptimizer, norms


class LAMB(LayerwiseOptimizer):
    """Adam's direction times a trust ratio for each tensor.

    You et al., Large Batch Optimization for Deep Learning (ICLR 2020), algorithm 2.

    The defaults are the variant of distributed adversarial training (UAI 2022): no bias
    correction, weight norms clipped to [0, 10], the trust ratio on every tensor. With
    ``m = beta1 m + (1 - beta1) g`` and ``v = beta2 v + (1 - beta2) g^2`` (divided by
    ``1 - beta^t`` where ``bias_correction``) the direction is
    ``u = m / (sqrt(v) + eps) + weight_decay w``.

    Args:
        params: parameters or groups; a group may also set ``adapt`` (False: ratio 1).
        lr: learning rate.
        betas: decay of the first and the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: inside the direction, so that the ratio scales it.
        bias_correction: Adam's correction of the moments' start at zero.
        trust_coefficient: factor of every trust ratio.
        min_weight_norm: the smallest weight norm that counts in the trust ratio.
        max_weight_norm: the largest one; None for no bound.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-4,
        bias_correction: bool = False,
        trust_coefficient: float = 1.0,
        min_weight_norm: float = 0.0,
        max_weight_norm: float | None = 10.0,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "bias_correction": bias_correction,
                "trust_coefficient": trust_coefficient,
                "min_weight_norm": min_weight_norm,
                "max_weight_norm": max_weight_norm,
            },
        )

    def _update(
        self, group: Group, weights: list[Tensor], gradients: list[Tensor]
    ) -> None:
        updates = self._direction(group, weights, gradients)
        rate = -group["lr"]
        if group["adapt"]:
            ratios = self._trust(group, weights, norms(updates))
            torch._foreach_addcmul_(weights, updates, ratios, rate)
        else:
            torch._foreach_add_(weights, updates, alpha=rate)

    def _direction(
        self, group: Group, weights: list[Tensor], gradients: list[Tensor]
    ) -> list[Tensor]:
        """``m / (sqrt(v) + eps) + weight_decay w``, freshly allocated."""
        beta1, beta2 = group["betas"]
        exp_avg = self._moments("exp_avg", weights)
        exp_avg_sq = self._moments("exp_avg_sq", weights)
        torch._foreach_lerp_(exp_avg, gradients, 1 - beta1)
        torch._foreach_mul_(exp_avg_sq, beta2)
        torch._foreach_addcmul_(exp_avg_sq, gradients, gradients, 1 - beta2)
        updates = list(torch._foreach_sqrt(exp_avg_sq))
        if group["bias_correction"]:
            torch._foreach_div_(updates, (1 - beta2 ** group["step"]) ** 0.5)
        torch._foreach_add_(updates, group["eps"])
        torch._foreach_reciprocal_(updates)
        torch._foreach_mul_(updates, exp_avg)
        if group["bias_correction"]:
            torch._foreach_div_(updates, 1 - beta1 ** group["step"])
        if group["weight_decay"]:
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        return updates


def lamb(
    params: list[Group],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    bias_correction: bool,
    trust_coefficient: float | None,
    min_weight_norm: float,
    max_weight_norm: float | None,
) -> LAMB:
    """LAMB by the fields of a configuration; a null trust coefficient is 1."""
    return LAMB(
        params,
        lr=lr,
        betas=(beta1, beta2),
        eps=eps,
        bias_correction=bias_correction,
        trust_coefficient=1.0 if trust_coefficient is None else trust_coefficient,
        min_weight_norm=min_weight_norm,
        max_weight_norm=max_weight_norm,
    )
