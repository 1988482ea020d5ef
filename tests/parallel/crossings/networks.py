"""Networks with random layers, of a few hundred weights.

The smallest one of the registry that has any, ConvNeXt, has 28 million.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from dathvd.config import ModelConfig
from dathvd.models import imagenet
from dathvd.torchvision_shim import torchvision

CONVNEXT = f"{__name__}:convnext"
DROPOUT = f"{__name__}:dropout"
_NAME = "convnext_of_two_blocks"


def convnext(
    config: ModelConfig, image_shape: tuple[int, int, int], num_classes: int
) -> nn.Module:
    """A ConvNeXt of two blocks, made by the maker of the registry's."""

    def build(weights: None, num_classes: int, **options: Any) -> Any:
        from torchvision.models.convnext import CNBlockConfig, ConvNeXt

        blocks = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
        return ConvNeXt(
            blocks, stochastic_depth_prob=0.5, num_classes=num_classes, **options
        )

    setattr(torchvision.models, _NAME, build)
    network: nn.Module = imagenet.torchvision_network(_NAME)(
        config, image_shape, num_classes
    )
    return network


def dropout(
    config: ModelConfig, image_shape: tuple[int, int, int], num_classes: int
) -> nn.Module:
    """A layer that draws from torch's own generator."""
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * height * width, 4 * config.width),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(4 * config.width, num_classes),
    )
