"""Small networks for small images."""

from __future__ import annotations

from torch import nn

from dathvd.config import ModelConfig
from dathvd.models.layers import layers_of

ImageShape = tuple[int, int, int]


def small_cnn(
    config: ModelConfig, image_shape: ImageShape, num_classes: int
) -> nn.Module:
    """Three 3x3 convolutions (the second and third halve the image) and two linear
    layers; ``config.width`` channels first, then twice and twice as many."""
    channels, height, width = image_shape
    kinds = layers_of(config, normalization="none")
    layers: list[nn.Module] = []
    widths = [channels, config.width, 2 * config.width, 2 * config.width]
    for stride, fan_in, fan_out in zip((1, 2, 2), widths, widths[1:]):
        layers.append(nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1))
        if kinds.normalization != "none":
            layers.append(kinds.norm(fan_out))
        layers.append(kinds.act())
    features = widths[-1] * -(-height // 4) * -(-width // 4)
    layers += [nn.Flatten(), nn.Linear(features, 4 * config.width), kinds.act()]
    return nn.Sequential(*layers, nn.Linear(4 * config.width, num_classes))


def mlp(config: ModelConfig, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Two hidden layers of ``8 * config.width`` units, without normalisation."""
    channels, height, width = image_shape
    kinds = layers_of(config, normalization="none")
    hidden = 8 * config.width
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * height * width, hidden),
        kinds.act(),
        nn.Linear(hidden, hidden),
        kinds.act(),
        nn.Linear(hidden, num_classes),
    )
