"""A ConvNeXt of a few hundred weights: the product's smallest has 28 million."""

from __future__ import annotations

from typing import Any

from torch import nn

from dathvd.models import MODELS
from dathvd.models.imagenet import imagenet_network
from dathvd.torchvision_shim import torchvision

SMALL_CONVNEXT = "convnext_of_two_blocks"


def install() -> None:
    """Register it; it goes through the builder that the large ones go through."""

    def build(weights: None, num_classes: int, **options: Any) -> nn.Module:
        from torchvision.models.convnext import CNBlockConfig, ConvNeXt

        blocks = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
        return ConvNeXt(
            blocks, stochastic_depth_prob=0.5, num_classes=num_classes, **options
        )

    setattr(torchvision.models, SMALL_CONVNEXT, build)
    MODELS[SMALL_CONVNEXT] = imagenet_network(SMALL_CONVNEXT)
