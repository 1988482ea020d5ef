"""The ways to run the attack's network faster: the same function, up to rounding."""

from __future__ import annotations

import functools
import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import Tensor, nn

from dathvd.attacks import build_attack
from dathvd.attacks.forward import Forward
from dathvd.attacks.network import attacked
from dathvd.attacks.twin import fold, twin_of
from dathvd.benchmark.step import attack_options, timing
from dathvd.config import AttackConfig, ModelConfig
from dathvd.models import build_model
from dathvd.models.layers import layers_of
from dathvd.models.residual import PostActBlock, residual_network
from tests.single.small_models import batch, network, nothing_changes

FASTER = [
    Forward(channels_last=True),
    Forward(fold_batch_norm=True),
    Forward(channels_last=True, fold_batch_norm=True),
]
NETWORKS = ["small_cnn", "small_resnet"]


def post_act() -> nn.Module:
    return residual_network(
        (3, 12, 12),
        4,
        block=PostActBlock,
        layers=layers_of(ModelConfig(activation="silu"), normalization="batch"),
        stem=4,
        widths=(4, 8),
        depths=(1, 1),
        preactivated=False,
    )


def built(name: str) -> nn.Module:
    """A network with statistics that differ from 0 and 1."""
    torch.manual_seed(0)
    if name == "post_act":
        model = post_act()
    else:
        options = {"normalization": "batch", "width": 4, "activation": "silu"}
        config = ModelConfig.model_validate({"name": name, **options})
        model = build_model(config, (3, 12, 12), 4)
    model = model.double().train()
    for _ in range(3):
        model(torch.rand(8, 3, 12, 12, dtype=torch.float64))
    return model


def gradient(model: nn.Module, forward: Forward, images: Tensor) -> Tensor:
    labels = torch.arange(len(images)) % 4
    with attacked(model, forward) as run:
        inputs = images.clone().requires_grad_()
        loss = F.cross_entropy(run(inputs), labels, reduction="sum")
        (found,) = torch.autograd.grad(loss, inputs)
    return found


@pytest.mark.parametrize("forward", FASTER, ids=str)
@pytest.mark.parametrize("name", [*NETWORKS, "post_act"])
def test_gradient_is_that_of_the_model(name: str, forward: Forward) -> None:
    model = built(name)
    images, _, _ = batch(6, (3, 12, 12))
    for _ in range(2):
        plain = gradient(model, Forward(), images)
        with nothing_changes(model, images):
            faster = gradient(model, forward, images)
        torch.testing.assert_close(faster, plain, rtol=1e-9, atol=1e-12)
        with torch.no_grad():  # an update: weights and statistics move
            for weight in model.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
        model.train()(images)


@pytest.mark.parametrize("name", [*NETWORKS, "preact_resnet18", "resnet18_small"])
def test_every_network_is_traced(name: str) -> None:
    model = build_model(ModelConfig(name=name), image_shape=(3, 8, 8), num_classes=4)
    assert twin_of(model.eval(), FASTER[-1]) is not None


def test_folding_leaves_no_batch_norm_behind_a_convolution() -> None:
    twin = twin_of(built("post_act").eval(), Forward(fold_batch_norm=True))
    assert twin is not None
    layers = [type(layer) for layer in twin._network.modules()]
    assert nn.BatchNorm2d not in layers and layers.count(nn.Conv2d) == 6


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_fold_is_exact(bias: bool, affine: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=bias).double()
    norm = nn.BatchNorm2d(5, affine=affine).double()
    for _ in range(5):
        norm(conv(2 * torch.rand(4, 3, 6, 6, dtype=torch.float64)))
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    images = torch.rand(4, 3, 6, 6, dtype=torch.float64)
    weight, shift = fold(conv.weight, conv.bias, norm)
    found = F.conv2d(images, weight, shift, padding=1)
    torch.testing.assert_close(found, norm.eval()(conv(images)))


class Branching(nn.Module):
    """Its graph depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits if bool(images.sum() > 0) else -logits


def test_a_network_that_cannot_be_traced_runs_as_it_is() -> None:
    model = Branching()
    images, _, _ = batch()
    with pytest.warns(UserWarning, match="Branching as it is.*cannot be traced"):
        found = gradient(model, FASTER[-1], images)
    assert torch.equal(found, gradient(model, Forward(), images))


def test_an_exchanged_layer_is_noticed() -> None:
    model = network()
    images, _, _ = batch()
    gradient(model, FASTER[-1], images)
    model.register_module("4", nn.Linear(150, 4).double())
    plain = gradient(model, Forward(), images)
    torch.testing.assert_close(gradient(model, FASTER[-1], images), plain)


class Shared(nn.Module):
    """One convolution before two batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.same = self.conv
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])
        self.norms[1].register_buffer("running_mean", torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        once: Tensor = self.norms[0](self.conv(images))
        twice: Tensor = self.norms[1](self.same(once))
        return twice.tanh().mean(dim=(2, 3))


def test_a_shared_convolution_is_not_folded() -> None:
    model = Shared().double()
    images, _, _ = batch()
    labels_fit = Forward(fold_batch_norm=True)
    with attacked(model, Forward()) as plain, attacked(model, labels_fit) as faster:
        torch.testing.assert_close(faster(images), plain(images))


def test_the_model_can_be_collected() -> None:
    model = network()
    images, _, _ = batch()
    gradient(model, FASTER[-1], images)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_bf16_attacks_as_strongly() -> None:
    model = built("small_resnet").float().eval()
    images, labels, noise = batch(64, (3, 12, 12))
    images = images.float()

    def loss(**options: Any) -> float:
        config = AttackConfig(epsilon=0.03, step_size=0.01, **options)
        found = build_attack(config)(model, images, labels, noise)
        with torch.no_grad():
            return F.cross_entropy(model(found), labels).item()

    start, exact = loss(num_steps=0), loss(num_steps=5)
    half = loss(num_steps=5, precision="bf16")
    assert exact > start + 0.01
    assert half - start > 0.97 * (exact - start)


def test_bf16_keeps_the_precision_of_images_and_logits() -> None:
    model = built("small_resnet").float()
    images = torch.rand(2, 3, 12, 12)
    for forward in (Forward(bf16=True), Forward(bf16=True, training=True)):
        with attacked(model, forward) as run:
            logits = run(images)
            exact = model(images)
        assert logits.dtype == torch.float32
        assert 0 < float((logits - exact).detach().abs().max()) < 0.1


@pytest.mark.slow
def test_compiled_network_is_the_same_function(monkeypatch: Any) -> None:
    # all but the machine code, whose making takes most of a minute
    backend = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", backend)
    model = network()
    images, _, _ = batch()
    forward = Forward(channels_last=True, fold_batch_norm=True, compile=True)
    plain = gradient(model, Forward(), images)
    with nothing_changes(model, images):
        compiled = gradient(model, forward, images)
    torch.testing.assert_close(compiled, plain, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    moved = gradient(model, Forward(), images)
    torch.testing.assert_close(gradient(model, forward, images), moved)


def test_options_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    # a product of the usual size takes ten seconds where bfloat16 is emulated
    monkeypatch.setitem(timing._MATRIX, "cpu", 256)
    arguments = "--model small_cnn --batch-size 2 --image-size 8 --steps 1 --repeats 1"
    chosen = [*arguments.split(), "--threads", "1"]
    result = CliRunner().invoke(attack_options.main, chosen)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()[1:]
    rows = [[line[:22].strip(), *line[22:].split()] for line in lines]
    assert [row[0] for row in rows] == [
        attack_options.AUTHORS,
        *(name for name in attack_options.VARIANTS if "compile" not in name),
        "float32 products",
        "bfloat16 products",
    ]
    assert rows[0][2:] == ["1.00", "±", "0.00"] * 2
