"""torchvision's networks for large images, with layers by configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from dathvd.config import ModelConfig
from dathvd.errors import UserError
from dathvd.models.layers import ACTIVATIONS, Layers
from dathvd.models.stochastic import StochasticDepth

ImageShape = tuple[int, int, int]


def torchvision_network(name: str) -> Callable[..., nn.Module]:
    """A maker of torchvision's network of that name, without trained weights."""

    def build(
        config: ModelConfig, image_shape: ImageShape, num_classes: int
    ) -> nn.Module:
        from dathvd.torchvision_shim import torchvision

        if image_shape[0] != 3:
            raise UserError(
                f"model.name: {name} needs images of 3 channels, not {image_shape[0]} "
                "(set data.channels: 3)"
            )
        options = {} if config.normalization is None else _norm_layer(name, config)
        make = getattr(torchvision.models, name)
        network: nn.Module = make(weights=None, num_classes=num_classes, **options)
        return with_own_layers(network, config)

    return build


def with_own_layers(network: nn.Module, config: ModelConfig) -> nn.Module:
    """A network of torchvision's with the configured activation, and random layers
    whose draws belong to the samples."""
    from dathvd.torchvision_shim import torchvision

    if config.activation is not None:
        make_act = ACTIVATIONS[config.activation]
        _replace(network, (nn.ReLU, nn.GELU), lambda layer: make_act())
    # torchvision's own layer draws from the global generator
    depth = torchvision.ops.StochasticDepth
    _replace(network, (depth,), lambda layer: StochasticDepth(layer.p))
    return network


def _norm_layer(
    name: str, config: ModelConfig
) -> dict[str, Callable[[int], nn.Module]]:
    if name.startswith("convnext"):
        raise UserError(
            f"model.normalization: {name} has layer normalisation; leave it null"
        )
    return {"norm_layer": Layers(config.normalization or "batch", "relu").norm}


def _replace(
    network: nn.Module,
    kinds: tuple[type[nn.Module], ...],
    make: Callable[[Any], nn.Module],
) -> None:
    """Exchange all layers of those kinds for what ``make`` makes of each."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, kinds):
                setattr(parent, name, make(child))


resnet18 = torchvision_network("resnet18")
resnet34 = torchvision_network("resnet34")
resnet50 = torchvision_network("resnet50")
resnet101 = torchvision_network("resnet101")
convnext_tiny = torchvision_network("convnext_tiny")
convnext_small = torchvision_network("convnext_small")
convnext_base = torchvision_network("convnext_base")
