"""torchvision's networks for large images, with layers by configuration."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from dathvd.config import ModelConfig
from dathvd.errors import UserError
from dathvd.models.layers import ACTIVATIONS, Layers

ImageShape = tuple[int, int, int]


def _torchvisions(name: str) -> Callable[..., nn.Module]:
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
        if config.activation is not None:
            _replace_activations(network, ACTIVATIONS[config.activation])
        return network

    return build


def _norm_layer(
    name: str, config: ModelConfig
) -> dict[str, Callable[[int], nn.Module]]:
    if name.startswith("convnext"):
        raise UserError(
            f"model.normalization: {name} has layer normalisation; leave it null"
        )
    return {"norm_layer": Layers(config.normalization or "batch", "relu").norm}


def _replace_activations(network: nn.Module, make: Callable[[], nn.Module]) -> None:
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, (nn.ReLU, nn.GELU)):
                setattr(parent, name, make())


resnet18 = _torchvisions("resnet18")
resnet34 = _torchvisions("resnet34")
resnet50 = _torchvisions("resnet50")
resnet101 = _torchvisions("resnet101")
convnext_tiny = _torchvisions("convnext_tiny")
convnext_small = _torchvisions("convnext_small")
convnext_base = _torchvisions("convnext_base")
