"""Residual networks for small images: their first convolution keeps the resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from torch import Tensor, nn

from dathvd.config import ModelConfig
from dathvd.models.layers import Layers, layers_of

ImageShape = tuple[int, int, int]
Initialization = Literal["kaiming", "torch"]


def _conv(fan_in: int, fan_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without a bias; its output has the input's size over the stride."""
    padding = kernel // 2
    return nn.Conv2d(fan_in, fan_out, kernel, stride, padding, bias=False)


class Block(Protocol):
    """Makes a residual block of ``width`` channels (times its expansion)."""

    expansion: int

    def __call__(
        self, fan_in: int, width: int, stride: int, layers: Layers
    ) -> nn.Module:
        """The block; it halves the image where ``stride`` is 2."""


class PreActBlock(nn.Module):
    """Normalise, activate, convolve, twice, beside a shortcut.

    He et al., Identity Mappings in Deep Residual Networks (ECCV 2016), figure 4(e). A
    projecting shortcut starts from the activated input.
    """

    expansion = 1

    def __init__(self, fan_in: int, width: int, stride: int, layers: Layers) -> None:
        super().__init__()
        self.entry = nn.Sequential(layers.norm(fan_in), layers.act())
        self.residual = self._residual(fan_in, width, stride, layers)
        fan_out = width * self.expansion
        self.shortcut: nn.Module | None = None
        if stride != 1 or fan_in != fan_out:
            self.shortcut = _conv(fan_in, fan_out, 1, stride)

    def _residual(
        self, fan_in: int, width: int, stride: int, layers: Layers
    ) -> nn.Module:
        return nn.Sequential(
            _conv(fan_in, width, 3, stride),
            layers.norm(width),
            layers.act(),
            _conv(width, width, 3),
        )

    def forward(self, features: Tensor) -> Tensor:
        entered = self.entry(features)
        shortcut = features if self.shortcut is None else self.shortcut(entered)
        summed: Tensor = self.residual(entered) + shortcut
        return summed


class PreActBottleneck(PreActBlock):
    """The same with 1x1, 3x3 and 1x1 convolutions; the last has 4 times the width."""

    expansion = 4

    def _residual(
        self, fan_in: int, width: int, stride: int, layers: Layers
    ) -> nn.Module:
        return nn.Sequential(
            _conv(fan_in, width, 1),
            layers.norm(width),
            layers.act(),
            _conv(width, width, 3, stride),
            layers.norm(width),
            layers.act(),
            _conv(width, self.expansion * width, 1),
        )


class SqueezeExcitation(nn.Module):
    """Channels scaled by what two small layers make of their means.

    Hu, Shen and Sun, Squeeze-and-Excitation Networks, CVPR 2018.

    Args:
        channels: of the features.
        squeezed: units between the layers.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gates = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same shape."""
        scaled: Tensor = features * self.gates(features)
        return scaled


class PreActSqueezeBlock(PreActBlock):
    """A preactivated block whose channels are scaled at the end (Peng et al., 2023)."""

    def _residual(
        self, fan_in: int, width: int, stride: int, layers: Layers
    ) -> nn.Module:
        plain = super()._residual(fan_in, width, stride, layers)
        assert isinstance(plain, nn.Sequential)
        return plain.append(SqueezeExcitation(width, round(width / 4)))


class PostActBlock(nn.Module):
    """Convolve, normalise, activate, twice, with the last activation after the sum.

    He et al., Deep Residual Learning for Image Recognition (CVPR 2016), figure 2.
    """

    expansion = 1

    def __init__(self, fan_in: int, width: int, stride: int, layers: Layers) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _conv(fan_in, width, 3, stride),
            layers.norm(width),
            layers.act(),
            _conv(width, width, 3),
            layers.norm(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or fan_in != width:
            self.shortcut = nn.Sequential(
                _conv(fan_in, width, 1, stride), layers.norm(width)
            )
        self.exit = layers.act()

    def forward(self, features: Tensor) -> Tensor:
        summed: Tensor = self.exit(self.residual(features) + self.shortcut(features))
        return summed


def residual_network(
    image_shape: ImageShape,
    num_classes: int,
    *,
    block: Block,
    layers: Layers,
    stem: int,
    widths: Sequence[int],
    depths: Sequence[int],
    preactivated: bool = True,
    final_norm: bool = True,
    initialization: Initialization = "kaiming",
) -> nn.Module:
    """A stem, stages of blocks (all but the first halve the image), mean, linear.

    Args:
        image_shape: (channels, height, width).
        num_classes: number of logits.
        block: what the stages are made of.
        layers: normalisation and activation.
        stem: channels of the first convolution.
        widths: width of each stage's blocks.
        depths: blocks in each stage.
        preactivated: the blocks activate their inputs; else the stem is normalised and
            activated too.
        final_norm: normalise and activate after the last of preactivated blocks, as
            figure 4(e)'s authors do.
        initialization: of the convolutions: kaiming draws from N(0, 2 / fan_out), torch
            keeps PyTorch's default, the uniform law on ±1 / sqrt(fan_in).
    """
    modules: list[nn.Module] = [_conv(image_shape[0], stem, 3)]
    if not preactivated:
        modules += [layers.norm(stem), layers.act()]
    fan_in = stem
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for place in range(depth):
            stride = 2 if stage > 0 and place == 0 else 1
            modules.append(block(fan_in, width, stride, layers))
            fan_in = width * block.expansion
    if preactivated and final_norm:
        modules += [layers.norm(fan_in), layers.act()]
    modules += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(fan_in, num_classes)]
    network = nn.Sequential(*modules)
    if initialization == "kaiming":
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return network


def _preact_resnet(block: Block, depths: Sequence[int]) -> Callable[..., nn.Module]:
    def build(
        config: ModelConfig,
        image_shape: ImageShape,
        num_classes: int,
        *,
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        final_norm: bool = True,
        initialization: Initialization = "kaiming",
    ) -> nn.Module:
        return residual_network(
            image_shape,
            num_classes,
            block=block,
            layers=layers_of(config, normalization="batch"),
            stem=widths[0],
            widths=widths,
            depths=depths,
            final_norm=final_norm,
            initialization=initialization,
        )

    return build


def _wide_network(
    block: Block,
    stem: int,
    widths: Sequence[int],
    depths: Sequence[int],
    activation: str = "relu",
) -> Callable[..., nn.Module]:
    def build(
        config: ModelConfig, image_shape: ImageShape, num_classes: int
    ) -> nn.Module:
        return residual_network(
            image_shape,
            num_classes,
            block=block,
            layers=layers_of(config, normalization="batch", activation=activation),
            stem=stem,
            widths=widths,
            depths=depths,
        )

    return build


def _wide_resnet(depth: int, widening: int) -> Callable[..., nn.Module]:
    widths = [width * widening for width in (16, 32, 64)]
    return _wide_network(PreActBlock, 16, widths, [(depth - 4) // 6] * 3)


def _robust_wide_resnet(
    stem: int, widths: Sequence[int], depths: Sequence[int]
) -> Callable[..., nn.Module]:
    """A wide residual network by the principles of Peng et al. (2023): depth and width
    in robust proportion, squeeze-and-excitation, a smooth activation."""
    return _wide_network(PreActSqueezeBlock, stem, widths, depths, activation="silu")


preact_resnet18 = _preact_resnet(PreActBlock, (2, 2, 2, 2))
"""PreActResNet-18 (He et al., ECCV 2016).

Its options, and those of the deeper ones: ``widths``, the four stages' channels;
``final_norm`` and ``initialization`` (see ``residual_network``), which are ``false``
and ``torch`` in the network of distributed adversarial training (11,171,146 weights for
10 classes).
"""
preact_resnet34 = _preact_resnet(PreActBlock, (3, 4, 6, 3))
"""PreActResNet-34."""
preact_resnet50 = _preact_resnet(PreActBottleneck, (3, 4, 6, 3))
"""PreActResNet-50, of bottlenecks."""
wide_resnet_28_10 = _wide_resnet(28, 10)
"""WRN-28-10 (Zagoruyko and Komodakis, BMVC 2016)."""
wide_resnet_34_10 = _wide_resnet(34, 10)
"""WRN-34-10."""
wide_resnet_70_16 = _wide_resnet(70, 16)
"""WRN-70-16, the largest of Gowal et al. (Uncovering the Limits of Adversarial Training
against Norm-Bounded Adversarial Examples, 2020)."""
ra_wide_resnet_70_16 = _robust_wide_resnet(96, (216, 432, 864), (30, 31, 10))
"""RaWRN-70-16 (Peng et al., Robust Principles, BMVC 2023), SiLU by default."""


def small_resnet(
    config: ModelConfig, image_shape: ImageShape, num_classes: int
) -> nn.Module:
    """Three preactivated blocks of ``width``, twice and four times as many channels."""
    return residual_network(
        image_shape,
        num_classes,
        block=PreActBlock,
        layers=layers_of(config, normalization="batch"),
        stem=config.width,
        widths=[config.width, 2 * config.width, 4 * config.width],
        depths=(1, 1, 1),
    )


def resnet18_small(
    config: ModelConfig, image_shape: ImageShape, num_classes: int
) -> nn.Module:
    """ResNet-18 for 32x32: a 3x3 stem without pooling."""
    return residual_network(
        image_shape,
        num_classes,
        block=PostActBlock,
        layers=layers_of(config, normalization="batch"),
        stem=64,
        widths=(64, 128, 256, 512),
        depths=(2, 2, 2, 2),
        preactivated=False,
    )
