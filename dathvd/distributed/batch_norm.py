"""Running statistics of batch normalisation, averaged over the workers."""

from __future__ import annotations

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
    pairs = [
        (module.running_mean, module.running_var)
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and module.running_var is not None
    ]
    if not pairs or hvd.size() == 1:
        return
    means = torch.cat([mean.double() for mean, _ in pairs])
    variances = torch.cat([variance.double() for _, variance in pairs])
    moments = torch.stack([means, variances + means.square()])
    moments = hvd.allreduce(moments, op=hvd.Average, name="dathvd.batch_norm")
    _scatter([mean for mean, _ in pairs], moments[0])
    pooled = (moments[1] - moments[0].square()).clamp_(min=0)
    _scatter([variance for _, variance in pairs], pooled)


def _scatter(targets: list[Tensor], flat: Tensor) -> None:
    sizes = [target.numel() for target in targets]
    for target, part in zip(targets, flat.split(sizes)):
        target.copy_(part)
