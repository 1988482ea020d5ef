"""From a configuration to a network."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from dathvd.config import ModelConfig
from dathvd.errors import UserError, choose
from dathvd.models.head import put_projection
from dathvd.models.imagenet import imagenet_network
from dathvd.models.layers import ACTIVATIONS, Normalize
from dathvd.models.residual import (
    PreActBlock,
    PreActBottleneck,
    preact_resnet,
    resnet18_small,
    small_resnet,
    wide_resnet,
)
from dathvd.models.small import mlp, small_cnn

ImageShape = tuple[int, int, int]
Builder = Callable[[ModelConfig, ImageShape, int], nn.Module]

MODELS: dict[str, Builder] = {
    "small_cnn": small_cnn,
    "mlp": mlp,
    "small_resnet": small_resnet,
    "preact_resnet18": preact_resnet(PreActBlock, (2, 2, 2, 2)),
    "preact_resnet34": preact_resnet(PreActBlock, (3, 4, 6, 3)),
    "preact_resnet50": preact_resnet(PreActBottleneck, (3, 4, 6, 3)),
    "resnet18_small": resnet18_small,
    "wide_resnet_28_10": wide_resnet(28, 10),
    "wide_resnet_34_10": wide_resnet(34, 10),
} | {
    name: imagenet_network(name)
    for name in (
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "convnext_tiny",
        "convnext_small",
        "convnext_base",
    )
}
"""The small networks, those for small images, and torchvision's for large ones."""


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
        UserError: no network has that name, or mean and std do not fit the channels.
    """
    network = choose("model.name", config.name, MODELS)(
        config, image_shape, num_classes
    )
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
