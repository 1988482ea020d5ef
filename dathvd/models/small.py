"""Small networks for small images."""

from __future__ import annotations

from torch import nn

from dathvd.config import ModelConfig
from dathvd.models.layers import activation, normalization


def small_cnn(
    config: ModelConfig, image_shape: tuple[int, int, int], num_classes: int
) -> nn.Module:
    """Three 3x3 convolutions (the second and third halve the image) and two linear
    layers; ``config.width`` channels first, then twice and twice as many."""
    channels, height, width = image_shape
    layers: list[nn.Module] = []
    widths = [channels, config.width, 2 * config.width, 2 * config.width]
    for stride, fan_in, fan_out in zip((1, 2, 2), widths, widths[1:]):
        layers.append(nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1))
        layers.append(normalization(config.normalization, fan_out))
        layers.append(activation(config.activation))
    features = widths[-1] * -(-height // 4) * -(-width // 4)
    layers += [nn.Flatten(), nn.Linear(features, 4 * config.width)]
    layers += [activation(config.activation), nn.Linear(4 * config.width, num_classes)]
    return nn.Sequential(*[layer for layer in layers if type(layer) is not nn.Identity])
