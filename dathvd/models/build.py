"""The makers of networks: a configuration becomes a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from dathvd.components import NETWORKS
from dathvd.config import ModelConfig
from dathvd.errors import UserError
from dathvd.models.head import put_projection
from dathvd.models.layers import ACTIVATIONS, Normalize
from dathvd.registry import is_foreign

ImageShape = tuple[int, int, int]

MODELS: Mapping[str, Callable[..., nn.Module]] = NETWORKS
"""Makers of networks by name; their places are in ``dathvd.components``."""


def build_model(
    config: ModelConfig, image_shape: ImageShape, num_classes: int
) -> nn.Module:
    """A network from images ``[batch, C, H, W]`` in [0, 1] to ``[batch, num_classes]``.

    Its initial weights are decided by torch's global seed.

    Args:
        config: the network and its layers.
        image_shape: (channels, height, width).
        num_classes: number of logits.

    Raises:
        UserError: it lies elsewhere and cannot be imported or made, or does not give
            so many logits; or mean and std do not fit the channels.
    """
    network: nn.Module = NETWORKS.build(
        config, image_shape=image_shape, num_classes=num_classes
    )
    if is_foreign(config.name):
        _check_outputs(network, config.name, image_shape, num_classes)
    return finish_model(network, config, image_shape)


def finish_model(
    network: nn.Module, config: ModelConfig, image_shape: ImageShape
) -> nn.Module:
    """A bare network with the configured head and first layer.

    Args:
        network: from normalised images to logits; its last linear layer is replaced
            where the head is a projection.
        config: head, mean and std.
        image_shape: (channels, height, width).

    Raises:
        UserError: mean and std do not fit the channels.
    """
    if config.head == "projection":
        put_projection(network, ACTIVATIONS[config.activation or "relu"])
    if config.mean is None and config.std is None:
        return network
    mean = config.mean or (0.0,) * image_shape[0]
    std = config.std or (1.0,) * image_shape[0]
    for field, values in (("mean", mean), ("std", std)):
        if len(values) != image_shape[0]:
            raise UserError(
                f"model.{field}: expected {image_shape[0]} values, one per channel, "
                f"got {len(values)}"
            )
    return nn.Sequential(Normalize(mean, std), network)


def _check_outputs(
    network: nn.Module, name: str, image_shape: ImageShape, num_classes: int
) -> None:
    """Refuse a network that does not give ``[batch, num_classes]``."""
    weight = next(network.parameters(), torch.zeros(()))
    images = torch.zeros(2, *image_shape, device=weight.device)
    modes = [(module, module.training) for module in network.modules()]
    try:
        with torch.no_grad():
            outputs = network.eval()(images)
    except Exception as error:
        raise UserError(
            f"model.name: {name} does not run on images {tuple(images.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    shape = tuple(getattr(outputs, "shape", ()))
    if shape != (2, num_classes):
        raise UserError(
            f"model.name: {name} gives outputs {shape} for 2 images, expected "
            f"{(2, num_classes)}: does it take num_classes?"
        )
