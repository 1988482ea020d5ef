"""Vision transformers, and stems of convolutions in place of patches.

Dosovitskiy et al., An Image Is Worth 16x16 Words, ICLR 2021, of torchvision's layers.
Stems: Singh, Croce and Hein, Revisiting Adversarial Training for ImageNet, NeurIPS
2023, section 3: small convolutions make transformers and ConvNeXt more robust.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from dathvd.config import ModelConfig
from dathvd.errors import UserError
from dathvd.models.imagenet import torchvision_network, with_own_layers

ImageShape = tuple[int, int, int]
_SMALL = 64
"""Side up to which patches have 4 pixels in place of 16."""
_WIDEST = 384
"""Channels of a stem's last convolution with a stride."""


def _vision_transformer(
    hidden_dim: int, num_heads: int, convolutional: bool
) -> Callable[..., nn.Module]:
    """A maker of 12 layers of that width on patches or on a stem's features."""

    def build(
        config: ModelConfig,
        image_shape: ImageShape,
        num_classes: int,
        *,
        patch_size: Annotated[int, Field(ge=1)] | None = None,
    ) -> nn.Module:
        from dathvd.torchvision_shim import torchvision

        side, patch = image_shape[1], patch_size
        if patch is None:
            patch = 4 if side <= _SMALL else 16
        _check(config, image_shape, patch, convolutional)
        stem: dict[str, Any] = {}
        if convolutional:
            stem["conv_stem_configs"] = _stem_configs(patch.bit_length() - 1)
        network: nn.Module = torchvision.models.VisionTransformer(
            image_size=side,
            patch_size=patch,
            num_layers=12,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            mlp_dim=4 * hidden_dim,
            num_classes=num_classes,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            **stem,
        )
        return with_own_layers(network, config)

    return build


def _check(
    config: ModelConfig, image_shape: ImageShape, patch: int, convolutional: bool
) -> None:
    """Refuse images that are not cut evenly, and layers that are none of these.

    Raises:
        UserError: with what is not so.
    """
    channels, height, width = image_shape
    if channels != 3:
        raise UserError(
            f"model.name: {config.name} needs images of 3 channels, not {channels} "
            "(set data.channels: 3)"
        )
    if height != width or height % patch:
        raise UserError(
            f"model.name: {config.name} cuts square images into patches of {patch} "
            f"pixels, these are {width}x{height} (set data.image_size, or "
            "model.options.patch_size)"
        )
    if convolutional and patch & (patch - 1):
        raise UserError(
            f"model.options.patch_size: {patch} is no power of two, as a stem's "
            "convolutions halve the image"
        )
    if config.normalization is not None:
        raise UserError(
            f"model.normalization: {config.name} has layer normalisation; leave it null"
        )


def _stem_configs(halvings: int) -> list[Any]:
    """3x3 convolutions that halve the image, with layer normalisation and GELU."""
    from dathvd.torchvision_shim import torchvision

    transformer = torchvision.models.vision_transformer
    layer_norm = torchvision.models.convnext.LayerNorm2d
    return [
        transformer.ConvStemConfig(
            out_channels=_WIDEST >> (halvings - 1 - place),
            kernel_size=3,
            stride=2,
            norm_layer=partial(layer_norm, eps=1e-6),
            activation_layer=_gelu,
        )
        for place in range(halvings)
    ]


def _gelu(inplace: bool = True) -> nn.Module:
    """GELU for torchvision's maker of layers, which says ``inplace`` to all."""
    return nn.GELU()


def _convnext_with_stem(
    name: str, widths: tuple[int, ...], strides: tuple[int, ...]
) -> Callable[..., nn.Module]:
    """A maker of torchvision's ConvNeXt with that stem in place of patches of 4."""
    plain = torchvision_network(name)

    def build(
        config: ModelConfig, image_shape: ImageShape, num_classes: int
    ) -> nn.Module:
        from dathvd.torchvision_shim import torchvision

        network = plain(config, image_shape, num_classes)
        layers: list[nn.Module] = []
        fan_in = image_shape[0]
        for width, stride in zip(widths, strides, strict=True):
            layers += [
                nn.Conv2d(fan_in, width, 3, stride, padding=1),
                torchvision.models.convnext.LayerNorm2d(width, eps=1e-6),
                nn.GELU(),
            ]
            fan_in = width
        for layer in layers:
            if isinstance(layer, nn.Conv2d):  # as torchvision's own stem begins
                nn.init.trunc_normal_(layer.weight, std=0.02)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        features = network.get_submodule("features")
        setattr(features, "0", nn.Sequential(*layers))
        return with_own_layers(network, config)

    return build


vit_s = _vision_transformer(384, 6, convolutional=False)
"""ViT-S: patches of 4 pixels for images of up to 64, of 16 for larger ones.

Its option, and that of the others: ``patch_size``.
"""
vit_b = _vision_transformer(768, 12, convolutional=False)
"""ViT-B."""
vit_s_convstem = _vision_transformer(384, 6, convolutional=True)
"""ViT-S with a stem: its features have the patches' size."""
vit_b_convstem = _vision_transformer(768, 12, convolutional=True)
"""ViT-B with a stem."""
convnext_tiny_convstem = _convnext_with_stem("convnext_tiny", (48, 96), (2, 2))
convnext_small_convstem = _convnext_with_stem("convnext_small", (48, 96), (2, 2))
convnext_base_convstem = _convnext_with_stem("convnext_base", (64, 96, 128), (2, 2, 1))
