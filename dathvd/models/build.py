"""From a configuration to a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from dathvd.components import NETWORKS
from dathvd.config import ModelConfig
from dathvd.errors import UserError
from dathvd.models.head import put_projection
from dathvd.models.layers import ACTIVATIONS, Normalize

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
        UserError: it lies elsewhere and cannot be imported or made, or mean and std do
            not fit the channels.
    """
    network = NETWORKS.build(config, image_shape=image_shape, num_classes=num_classes)
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
