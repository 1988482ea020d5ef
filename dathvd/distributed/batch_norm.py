"""Batch norm on several workers: statistics made equal, or synchronised in each pass.

By ``train.batch_norm`` each worker normalises its own samples, and the running
statistics are made equal before a network is evaluated or saved; or every pass
normalises by the moments of all workers' samples (``SynchronisedBatchNorm``).
Horovod's own ``SyncBatchNorm`` works on GPUs alone. Here one allreduce a layer carries
the sums of the forward pass and one those of the backward pass, on any device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import horovod.torch as hvd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dathvd.distributed.blocking import sum_over_workers


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
"""What makes a network's statistics equal on all workers before it is evaluated or
saved, by policy (``train.batch_norm``). Synchronised statistics are equal already."""


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


class SynchronisedBatchNorm(_BatchNorm):
    """Ioffe and Szegedy's batch norm (ICML 2015), by the moments of the global batch.

    In train mode a pass is a collective, forward and backward: every worker runs as
    many, with as many samples as it has, also none. In eval mode, and in an attack
    therefore, it is torch's own layer and sends nothing. Parameters and statistics are
    the given layer's, by the same names. The statistics are equal on all workers.

    Args:
        layer: what it stands for.
        name: of its collectives; unique in the network, equal on all workers.
    """

    def __init__(self, layer: _BatchNorm, name: str) -> None:
        super().__init__(
            layer.num_features,
            layer.eps,
            layer.momentum,
            layer.affine,
            layer.track_running_stats,
        )
        self._parameters.update(layer._parameters)
        self._buffers.update(layer._buffers)
        self.train(layer.training)
        self._name = f"batch_norm.{name}"

    def forward(self, input: Tensor) -> Tensor:
        """``(x - mean) / sqrt(var + eps) * weight + bias`` for ``[batch, C, ...]``."""
        if not self.training:
            return super().forward(input)
        options = (self.weight, self.bias, self.eps, self._name)
        result = _Normalise.apply(input, *options)  # type: ignore[no-untyped-call]
        output, mean, variance, count = result
        if self.track_running_stats:
            self._track(mean, variance * (count / (count - 1).clamp(min=1)))
        normalised: Tensor = output
        return normalised

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased: Tensor) -> None:
        """Move the running statistics towards this batch's."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share: Tensor | float = self.momentum or 0.0
        if self.momentum is None:  # torch's cumulative mean
            share = self.num_batches_tracked.to(mean.dtype).reciprocal()
        for running, now in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.mul_(1 - share).add_(now * share)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected [batch, channels, ...], got {input.dim()}D")


def synchronise_batch_norm(model: nn.Module) -> nn.Module:
    """The model, its batch-norm layers exchanged for synchronised ones in place."""
    if isinstance(model, _BatchNorm):
        return SynchronisedBatchNorm(model, "layer")
    for name, module in list(model.named_modules()):
        for child, layer in list(module.named_children()):
            if isinstance(layer, _BatchNorm):
                path = f"{name}.{child}".lstrip(".")
                setattr(module, child, SynchronisedBatchNorm(layer, path))
    return model


def _pooled(sums: Tensor, name: str) -> Tensor:
    """The sum over all workers in float64."""
    return sum_over_workers(sums.to(torch.float64, copy=True), name, "batch norm")


def _moments(input: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean ``[C]``, biased variance ``[C]`` and number of values of all workers.

    What travels are the count and, in float64, the sums of x and of x^2, made from
    each worker's own mean and variance: no digits are lost where the mean is large.
    """
    channels = input.size(1)
    count = torch.full(
        (1,), input.numel() // channels, dtype=torch.float64, device=input.device
    )
    sums = torch.zeros(2, channels, dtype=torch.float64, device=input.device)
    if input.numel():
        dims = [0, *range(2, input.dim())]
        variance, mean = torch.var_mean(input.detach(), dims, correction=0)
        mean = mean.double()
        sums = torch.stack([mean, variance.double() + mean.square()]) * count
    total = _pooled(torch.cat([count, sums.flatten()]), name)
    count = total[:1]
    mean, square = total[1:].view(2, channels) / count
    return mean, (square - mean.square()).clamp_(min=0), count


class _Normalise(torch.autograd.Function):
    """The normalised batch, with the moments that it was normalised by."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        name: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _moments(input, f"{name}.forward")
        scale = (variance + eps).rsqrt().to(input.dtype)
        mean, variance = mean.to(input.dtype), variance.to(input.dtype)
        ctx.save_for_backward(input, weight, mean, scale, count)
        ctx.name = f"{name}.backward"
        ctx.mark_non_differentiable(mean, variance, count)
        output = input.new_empty(input.shape)
        if input.numel():
            output = F.batch_norm(input, mean, variance, weight, bias, False, 0.0, eps)
        return output, mean, variance, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, gradient: Tensor, *others: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        """The gradient ``weight / sqrt(var + eps) * (g - mean(g) - x' mean(g x'))``.

        Here g is the gradient of the output and x' the normalised input, and the means
        are over all workers' values.

        The gradients of weight and bias stay this worker's: the optimizer's exchange
        takes their mean, as of all others.
        """
        input, weight, mean, scale, count = ctx.saved_tensors
        dims = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        normal = (input - mean.view(shape)).mul_(scale.view(shape))
        sums = torch.stack([gradient.sum(dims), (gradient * normal).sum(dims)])
        means = _pooled(sums, ctx.name).div_(count).to(input.dtype)
        centred = gradient - means[0].view(shape)
        centred = centred.sub_(normal.mul_(means[1].view(shape)))
        factor = scale if weight is None else scale * weight
        own = (None, None) if weight is None else (sums[1], sums[0])
        return centred.mul_(factor.view(shape)), *own, None, None
