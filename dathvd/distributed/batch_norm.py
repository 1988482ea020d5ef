"""Running statistics of batch normalisation, made equal on all workers."""

from __future__ import annotations

from collections.abc import Callable

import horovod.torch as hvd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def average_batch_norm(model: nn.Module) -> None:
    """Give every worker the statistics of all workers' samples. A collective.

    Gradients keep the weights equal on all ranks, but each worker's running mean and
    variance follow its own samples. Both are replaced by those of the pooled samples:
    the mean of the means, and by the law of total variance the mean of the variances
    plus the variance of the means (a plain mean of the variances would be too small).
    All layers travel in one float64 allreduce. ``num_batches_tracked`` counts steps,
    is equal on all ranks, and stays.
    """
    means, variances = _statistics(model)
    if not means or hvd.size() == 1:
        return
    flat_means = torch.cat([mean.double() for mean in means])
    flat_variances = torch.cat([variance.double() for variance in variances])
    moments = torch.stack([flat_means, flat_variances + flat_means.square()])
    moments = hvd.allreduce(moments, op=hvd.Average, name="dathvd.batch_norm")
    _scatter(means, moments[0])
    pooled = (moments[1] - moments[0].square()).clamp_(min=0)
    _scatter(variances, pooled)


def share_batch_norm(model: nn.Module, root: int = 0) -> None:
    """Give every worker rank ``root``'s own statistics. A collective."""
    means, variances = _statistics(model)
    if not means or hvd.size() == 1:
        return
    flat = torch.cat([*means, *variances])
    flat = hvd.broadcast(flat, root, name="dathvd.batch_norm.root")
    _scatter([*means, *variances], flat)


PUBLISHED_BATCH_NORM: dict[str, Callable[[nn.Module], None]] = {
    "averaged": average_batch_norm,
    "local": share_batch_norm,
    "synchronised": lambda model: None,
}
"""By policy (``train.batch_norm``), what makes the statistics of a network equal on all
workers before it is evaluated or saved; synchronised ones are."""


def _statistics(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The running means and the running variances, layer by layer."""
    pairs = [
        (module.running_mean, module.running_var)
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and module.running_var is not None
    ]
    return [mean for mean, _ in pairs], [variance for _, variance in pairs]


def _scatter(targets: list[Tensor], flat: Tensor) -> None:
    sizes = [target.numel() for target in targets]
    for target, part in zip(targets, flat.split(sizes)):
        target.copy_(part)
