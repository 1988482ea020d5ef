"""Networks: sizes, initial weights, and that every configuration computes logits."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dathvd.config import ModelConfig, load_config
from dathvd.config.shipped import shipped_configs
from dathvd.errors import UserError
from dathvd.models import MODELS, Normalize, build_model

LARGE = {"resnet18", "resnet34", "resnet50", "resnet101"}
CONVNEXT = {name for name in MODELS if name.startswith("convnext")}
VIT = {name for name in MODELS if name.startswith("vit")}
SMALL = set(MODELS) - LARGE - CONVNEXT - VIT
QUICK = ["small_cnn", "mlp", "small_resnet", "preact_resnet18", "resnet18_small"]


def build(
    name: str,
    shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    **fields: Any,
) -> nn.Module:
    config = ModelConfig.model_validate({"name": name, **fields})
    return build_model(config, image_shape=shape, num_classes=classes)


def kinds(model: nn.Module) -> set[str]:
    return {type(module).__name__ for module in model.modules()}


@pytest.mark.parametrize(
    "name, classes, published",
    [
        ("preact_resnet18", 10, 11.17),
        ("preact_resnet34", 10, 21.28),
        ("preact_resnet50", 10, 23.51),
        ("resnet18_small", 10, 11.17),
        ("wide_resnet_28_10", 10, 36.48),
        ("wide_resnet_34_10", 10, 46.16),
        ("wide_resnet_70_16", 10, 266.80),
        ("ra_wide_resnet_70_16", 10, 267.24),
        ("resnet18", 1000, 11.69),
        ("resnet50", 1000, 25.56),
        ("convnext_tiny", 1000, 28.59),
    ],
)
def test_parameter_counts(name: str, classes: int, published: float) -> None:
    with torch.device("meta"):
        model = build(name, classes=classes)
    count = sum(weight.numel() for weight in model.parameters())
    assert round(count / 1e6, 2) == published


@pytest.mark.parametrize(
    "name, side, published",
    [
        ("vit_s", 224, 22.05),
        ("vit_b", 224, 86.57),
        ("vit_s_convstem", 224, 22.78),
        ("vit_b_convstem", 224, 87.15),
        ("convnext_tiny_convstem", 224, 28.63),
        ("convnext_base_convstem", 224, 88.75),
        ("vit_s", 32, 21.73),
    ],
)
def test_transformers_and_stems_have_their_size(
    name: str, side: int, published: float
) -> None:
    with torch.device("meta"):
        model = build(name, (3, side, side), classes=1000).eval()
        assert model(torch.rand(2, 3, side, side)).shape == (2, 1000)
    count = sum(weight.numel() for weight in model.parameters())
    assert count / 1e6 == pytest.approx(published, abs=0.02)


@pytest.mark.parametrize(
    "name, shape, fields, message",
    [
        ("vit_s", (1, 32, 32), {}, "needs images of 3 channels"),
        ("vit_s", (3, 30, 30), {}, "cuts square images into patches of 4 pixels"),
        ("vit_b", (3, 32, 36), {}, "these are 36x32"),
        ("vit_s", (3, 32, 32), {"normalization": "batch"}, "leave it null"),
        (
            "vit_s_convstem",
            (3, 36, 36),
            {"options": {"patch_size": 6}},
            "6 is no power of two",
        ),
    ],
)
def test_images_that_a_transformer_cannot_cut_are_refused(
    name: str, shape: Any, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build(name, shape, **fields)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_s_convstem", "convnext_tiny_convstem"])
def test_stems_and_transformers_run_alike_in_the_attack(name: str) -> None:
    from dathvd.attacks.forward import Forward
    from dathvd.attacks.twin import twin_of

    torch.manual_seed(0)
    model = build(name).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    images = torch.rand(2, 3, 32, 32)
    twin = twin_of(model, Forward(channels_last=True, fold_batch_norm=True))
    assert twin is not None
    torch.testing.assert_close(twin(images), model(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 7, 9)])
def test_logits_of_every_image_shape(name: str, shape: tuple[int, int, int]) -> None:
    model = build(name, shape, classes=7, width=4)
    assert model(torch.rand(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_network_gives_logits(name: str) -> None:
    with torch.device("meta"):
        model = build(name, (3, 64, 64), classes=7).eval()
        assert model(torch.rand(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("name", ["small_cnn", "small_resnet", "resnet18"])
@pytest.mark.parametrize("normalization", ["none", "batch", "group"])
def test_normalization_by_configuration(name: str, normalization: str) -> None:
    model = build(name, width=4, normalization=normalization)
    found = kinds(model) & {"BatchNorm2d", "GroupNorm"}
    expected = {"none": set(), "batch": {"BatchNorm2d"}, "group": {"GroupNorm"}}
    assert found == expected[normalization]
    assert model(torch.rand(2, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize("name", ["small_cnn", "preact_resnet18", "resnet18", "mlp"])
@pytest.mark.parametrize(
    "activation, layer", [("relu", "ReLU"), ("silu", "SiLU"), ("softplus", "Softplus")]
)
def test_activation_by_configuration(name: str, activation: str, layer: str) -> None:
    found = kinds(build(name, activation=activation))
    assert found & {"ReLU", "SiLU", "Softplus", "GELU"} == {layer}


def test_convnext_has_its_own_layers_unless_told() -> None:
    with torch.device("meta"):
        assert "GELU" in kinds(build("convnext_tiny"))
        assert "GELU" not in kinds(build("convnext_tiny", activation="silu"))
    with pytest.raises(UserError, match="model.normalization: convnext_tiny"):
        build("convnext_tiny", normalization="batch")


def test_normalisation_of_images_is_the_first_layer() -> None:
    model = build("mlp", (3, 4, 4), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))
    first = next(model.children())
    assert isinstance(first, Normalize)
    images = torch.rand(2, 3, 4, 4)
    expected = (images - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.2, 0.25, 0.5]
    ).view(3, 1, 1)
    torch.testing.assert_close(first(images), expected)
    assert "0.mean" in model.state_dict()


def test_the_seed_decides_the_initial_weights() -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build("small_resnet").parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_residual_networks_start_with_signal_of_order_one() -> None:
    torch.manual_seed(0)
    logits = build("preact_resnet18").train()(torch.rand(16, 3, 32, 32))
    assert 0.05 < float(logits.detach().std()) < 5


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"name": "mlp", "mean": (0.5,)}, "model.mean: expected 3 values"),
        ({"name": "mlp", "std": (1.0, 1.0)}, "model.std: expected 3 values"),
    ],
)
def test_wrong_configurations_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**fields)


def test_large_networks_refuse_grey_images() -> None:
    with pytest.raises(UserError, match="data.channels: 3"):
        build("resnet50", (1, 224, 224))


AUTHORS = {"final_norm": False, "initialization": "torch"}
PAPER_CONFIGS = [name for name in shipped_configs() if "/paper_" in name]


def shipped_model(config_name: str) -> nn.Module:
    """The network of a shipped configuration, with weights."""
    torch.manual_seed(0)
    config = load_config(config_name)
    large = config_name.startswith("imagenet")
    shape, classes = ((3, 224, 224), 1000) if large else ((3, 32, 32), 10)
    return build_model(config.model, image_shape=shape, num_classes=classes)


@pytest.mark.parametrize("name", PAPER_CONFIGS)
def test_paper_configurations_build_the_authors_networks(name: str) -> None:
    with torch.device("meta"):
        model = shipped_model(name)
    count = sum(weight.numel() for weight in model.parameters())
    assert count == (25_557_032 if name.startswith("imagenet") else 11_171_146)


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize("options", [{}, AUTHORS])
def test_initial_deviations_of_preact_resnets(options: dict[str, Any]) -> None:
    """N(0, 2 / fan_out), or U(±1 / sqrt(fan_in)) with the options of the authors."""
    torch.manual_seed(0)
    model = build("preact_resnet18", options=options)
    for layer in convolutions(model):
        size = math.prod(layer.kernel_size)
        fan_in, fan_out = layer.in_channels * size, layer.out_channels * size
        expected = (1 / (3 * fan_in) if options else 2 / fan_out) ** 0.5
        tolerance = 4 / layer.weight.numel() ** 0.5
        assert float(layer.weight.detach().std()) == pytest.approx(
            expected, rel=tolerance
        )
        within = float(layer.weight.detach().abs().max()) <= fan_in**-0.5
        assert within == bool(options)
    last = list(model.modules())[-1]
    assert isinstance(last, nn.Linear)
    bound = last.in_features**-0.5
    assert 0.99 * bound < float(last.weight.detach().abs().max()) <= bound


def test_imagenet_paper_configurations_start_as_torchvisions_resnet50() -> None:
    """N(0, 2 / fan_out) of convolutions, 1 and 0 of batch norm (none zeroed)."""
    model = shipped_model("imagenet/paper_dat_pgd")
    for layer in convolutions(model):
        fan_out = layer.out_channels * math.prod(layer.kernel_size)
        tolerance = 4 / layer.weight.numel() ** 0.5
        deviation = float(layer.weight.detach().std())
        assert deviation == pytest.approx((2 / fan_out) ** 0.5, rel=tolerance)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert bool((norm.weight == 1).all()) and bool((norm.bias == 0).all())


def test_without_the_final_norm_features_are_the_last_sum() -> None:
    torch.manual_seed(0)
    model = build("preact_resnet18", options={**AUTHORS, "widths": [4, 4, 8, 8]})
    assert isinstance(model, nn.Sequential)
    tail = [type(layer).__name__ for layer in list(model)[-4:]]
    assert tail == ["PreActBlock", "AdaptiveAvgPool2d", "Flatten", "Linear"]
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_wrong_initialization_is_refused() -> None:
    with pytest.raises(UserError, match="model.options.initialization"):
        build("preact_resnet18", options={"initialization": "zeros"})
