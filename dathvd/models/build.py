"""From a configuration to a network."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from dathvd.config import ModelConfig
from dathvd.errors import UserError, choose
from dathvd.models.layers import Normalize
from dathvd.models.small import small_cnn

ImageShape = tuple[int, int, int]
Builder = Callable[[ModelConfig, ImageShape, int], nn.Module]

MODELS: dict[str, Builder] = {"small_cnn": small_cnn}


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
