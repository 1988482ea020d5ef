"""Batch norm's statistics taken anew, for weights that no batch was trained with.

Izmailov et al., Averaging Weights Leads to Wider Optima (UAI 2018), section 3.2: the
statistics of averaged weights are not the average of statistics.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dathvd.config import Config
from dathvd.data import Dataset, permutation, unaugmented
from dathvd.noise import mix_seed
from dathvd.runtime import Runtime, sum_over_workers

NUM_IMAGES = 10_240
"""Training images that are looked at, at most: enough for precise statistics (Wu and
Johnson, Rethinking Batch in BatchNorm, 2021, section 3)."""
_PART = 256
"""Images at once, whose own statistics normalise them on the way to later layers."""
_SAMPLE = 0x5B


def take_anew(
    model: nn.Module, dataset: Dataset, config: Config, runtime: Runtime
) -> None:
    """Give batch norm the statistics of clean training images. A collective.

    Workers share the images, in parts that do not depend on how many they are; what
    counts are the moments over all of them, in float64.

    Args:
        model: in the mode of training; layers in eval mode are frozen, and stay.
        dataset: whose training set is looked at, without augmentation.
        config: whose seed decides which images are taken.
        runtime: this worker's place.
    """
    images = unaugmented(dataset.train, dataset.image_shape)
    order = permutation(len(images), mix_seed(config.seed, _SAMPLE), 0)
    chosen = order[:NUM_IMAGES].sort().values
    parts = chosen.tensor_split(-(-len(chosen) // _PART))

    def batch(indices: Tensor) -> Tensor:
        return images.batch(indices).to(runtime.device).float().div_(255)

    retake(
        model,
        [
            functools.partial(batch, part)
            for part in parts[runtime.rank :: runtime.size]
        ],
        lambda moments: sum_over_workers(runtime, moments, "statistics"),
    )


@torch.no_grad()
def retake(
    model: nn.Module,
    parts: list[Callable[[], Tensor]],
    total: Callable[[Tensor], Tensor],
) -> None:
    """Replace the running statistics by those of the images of all workers' parts.

    Args:
        model: layers in train mode are given new ones; all are as before otherwise.
        parts: this worker's images ``[n, ...]``, n at least 2, made when they are due.
        total: the sum of a float64 vector over all workers.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and module.training
        and module.running_mean is not None
    ]
    if not layers:
        return
    modes = [(module, module.training) for module in model.modules()]
    moments = {layer: _no_moments(layer) for layer in layers}
    try:
        model.eval()
        for layer in layers:
            pass_by = functools.partial(_normalise, layer, moments[layer])
            layer.forward = pass_by  # type: ignore[method-assign]
        for part in parts:
            model(part())
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
        for module, training in modes:
            module.training = training
    summed = total(torch.cat([each.flatten().cpu() for each in moments.values()]))
    sizes = [each.numel() for each in moments.values()]
    for layer, flat in zip(layers, summed.split(sizes), strict=True):
        _fill(layer, flat.view(3, -1))


def _no_moments(layer: _BatchNorm) -> Tensor:
    """Float64 ``[3, channels]``: how many values, their sum, the sum of squares."""
    assert layer.running_mean is not None
    return layer.running_mean.new_zeros((3, layer.num_features), dtype=torch.float64)


def _normalise(layer: _BatchNorm, moments: Tensor, values: Tensor) -> Tensor:
    """What the layer does in train mode; its input's moments are added."""
    wide = values.double().transpose(0, 1).flatten(1)
    moments[0] += wide.shape[1]
    moments[1] += wide.sum(dim=1)
    moments[2] += wide.square().sum(dim=1)
    return F.batch_norm(
        values, None, None, layer.weight, layer.bias, training=True, eps=layer.eps
    )


def _fill(layer: _BatchNorm, moments: Tensor) -> None:
    """The mean, and the variance without bias, as in torch's own statistics."""
    assert layer.running_mean is not None and layer.running_var is not None
    count, first, second = moments
    mean = first / count
    variance = (second / count - mean.square()).clamp_(min=0)
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance * count / (count - 1).clamp_(min=1))
