"""An attack's convolutions against the direct sum in double precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dathvd.attacks import build_attack
from dathvd.attacks.forward import Forward
from dathvd.attacks.fused import Around, FusedConv2d
from dathvd.attacks.network import attacked
from dathvd.attacks.pgd import PGD
from dathvd.attacks.twin import twin_of
from dathvd.config import AttackConfig, ModelConfig
from dathvd.convolutions import direct_sums, kernel_for
from dathvd.convolutions.winograd import native
from dathvd.models import build_model
from dathvd.native import TARGETS
from tests.single.small_models import threads

pytestmark = pytest.mark.skipif(
    native.target() in (None, "plain"), reason="needs the compiled loops and AVX2"
)
FAST = TARGETS[1:3]
CHANNELS = st.sampled_from([32, 64, 96])
SIDE = st.integers(2, 13)


def layer(inputs: int, outputs: int, bias: bool = True) -> FusedConv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
    kernel = kernel_for(conv)
    assert kernel is not None
    fast = FusedConv2d(conv, kernel)
    fast.set(conv.weight.detach(), None if conv.bias is None else conv.bias.detach())
    return fast


def both_ways(fast: FusedConv2d, images: Tensor, back: Tensor) -> list[Tensor]:
    inputs = images.clone().requires_grad_()
    outputs = fast(inputs)
    return [outputs.detach(), *torch.autograd.grad(outputs, inputs, back)]


def directly(fast: FusedConv2d, images: Tensor, back: Tensor) -> list[Tensor]:
    inputs = images.double().requires_grad_()
    bias = None if fast.bias is None else fast.bias.double()
    outputs = F.conv2d(inputs, fast.weight.double(), bias, padding=1)
    return [outputs.detach(), *torch.autograd.grad(outputs, inputs, back.double())]


@pytest.mark.parametrize("target", FAST)
@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5), SIDE, SIDE, CHANNELS, CHANNELS, st.booleans(), st.integers(1, 3)
)
def test_the_same_convolution_both_ways(
    target: str,
    count: int,
    height: int,
    width: int,
    inputs: int,
    outputs: int,
    bias: bool,
    pool: int,
) -> None:
    torch.manual_seed(0)
    with native.at_most(target), threads(pool):
        fast = layer(inputs, outputs, bias)
        images = torch.randn(count, inputs, height, width)
        back = torch.randn(count, outputs, height, width)
        found = both_ways(fast, images, back)
    for ours, exact in zip(found, directly(fast, images, back), strict=True):
        error = (ours - exact).abs().max() / exact.std()
        assert error < 3e-4  # of random sums; a wrong coefficient gives about 1


@pytest.mark.parametrize("side", [4, 16])  # few tiles and many weights, and many tiles
def test_an_image_does_not_depend_on_the_others_or_the_threads(side: int) -> None:
    torch.manual_seed(0)
    fast = layer(64, 64)
    images, back = torch.randn(9, 64, side, side), torch.randn(9, 64, side, side)
    images[3] = torch.nan
    whole = both_ways(fast, images, back)
    with threads(1):
        for ours, alone in zip(whole, both_ways(fast, images, back), strict=True):
            assert torch.equal(ours.nan_to_num(7), alone.nan_to_num(7))
    for index in (0, 1):
        own = slice(index, index + 8)  # fewer patches are summed directly
        for ours, alone in zip(whole, both_ways(fast, images[own], back[own])):
            assert torch.equal(ours[own].nan_to_num(7), alone.nan_to_num(7))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(32, 32, 3, padding=1, stride=3),
        nn.Conv2d(32, 32, 3, padding=1, stride=(1, 2)),
        nn.Conv2d(32, 32, 3, padding=1, groups=2),
        nn.Conv2d(32, 32, 3, padding=2, dilation=2),
        nn.Conv2d(32, 32, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(32, 32, 1, padding=1),
        nn.Conv2d(32, 32, 5, padding=2),
        nn.Conv2d(32, 48, 3, padding=1),
        nn.Conv2d(48, 32, 3, padding=1),
        nn.Conv2d(32, 32, 3, padding=1).double(),
        nn.ConvTranspose2d(32, 32, 3, padding=1),
    ],
    ids=str,
)
def test_other_layers_do_not_suit(conv: nn.Module) -> None:
    assert kernel_for(conv) is None


def test_none_suits_without_fast_loops() -> None:
    conv = nn.Conv2d(32, 32, 3, padding=1)
    with native.at_most("plain"):
        assert kernel_for(conv) is None
    with direct_sums():
        assert kernel_for(conv) is None
        assert kernel_for(conv, torch.bfloat16) is None
    assert kernel_for(conv) is not None


def test_tiny_and_few_images_are_summed_directly() -> None:
    fast = layer(32, 32)
    small = [torch.rand(2, 32, 1, 1), torch.rand(2, 32, 2, 3), torch.rand(7, 32, 4, 4)]
    for images in small:
        exact = F.conv2d(images, fast.weight, fast.bias, padding=1)
        assert torch.equal(fast(images), exact)


NETWORKS = {
    "preactivated": ModelConfig(name="small_resnet", width=32, normalization="batch"),
    "postactivated": ModelConfig(name="resnet18", normalization="batch"),
}


def differences_of_images(found: Tensor, exact: Tensor) -> list[float]:
    """Each image's largest difference, of the largest gradient of all.

    Where a unit's input is zero up to rounding, which processors do otherwise, its
    rectifier may open or shut: that image's gradient then differs by the unit's part.
    """
    off: Tensor = (found - exact).flatten(1).abs().amax(1) / exact.abs().max()
    return off.tolist()


@pytest.mark.parametrize("network", NETWORKS)
def test_the_attack_s_gradient_on_a_network(network: str) -> None:
    torch.manual_seed(0)
    model = build_model(NETWORKS[network], (3, 16, 16), 10).train()
    for _ in range(2):
        model(torch.rand(16, 3, 16, 16))
    images = torch.rand(8, 3, 16, 16)

    def gradient(forward: Forward) -> Tensor:
        with attacked(model, forward) as run:
            inputs = images.clone().requires_grad_()
            loss = F.cross_entropy(run(inputs), torch.arange(8), reduction="sum")
            return torch.autograd.grad(loss, inputs)[0]

    for _ in range(2):
        exact = gradient(Forward())
        fast = gradient(Forward(winograd=True, fold_batch_norm=True))
        with direct_sums():
            slow = gradient(Forward(winograd=True, fold_batch_norm=True))
        torch.testing.assert_close(slow, exact, rtol=1e-3, atol=1e-5)
        *most, worst = sorted(differences_of_images(fast, exact))
        assert max(most) < 1e-5 and worst < 0.02
        assert not torch.equal(fast, exact)  # the same sums: another layer ran
        with torch.no_grad():  # an update: the transformed weights follow
            for weight in model.parameters():
                weight.add_(0.05 * torch.randn_like(weight))


@pytest.mark.parametrize(
    ("settings", "used"),
    [
        ({}, True),
        (
            {"precision": "bf16"},
            kernel_for(nn.Conv2d(32, 32, 3, padding=1), torch.bfloat16) is not None,
        ),
        ({"winograd": False}, False),
    ],
)
def test_when_the_attack_asks_for_it(settings: dict[str, object], used: bool) -> None:
    attack = build_attack(AttackConfig.model_validate({"name": "pgd", **settings}))
    assert isinstance(attack, PGD)
    config = ModelConfig(name="small_resnet", width=32)
    twin = twin_of(build_model(config, (3, 16, 16), 10).eval(), attack.forward)
    assert twin is not None
    layers = [type(module) for module in twin._network.modules()]
    assert (FusedConv2d in layers) is used


class Network(nn.Module):
    """Each thing that a convolution may take over, and what looks like it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.folded = nn.BatchNorm2d(32), nn.BatchNorm2d(32)
        self.first, self.second, self.third, self.last = (
            nn.Conv2d(32, 32, 3, padding=1) for _ in range(4)
        )

    def forward(self, images: Tensor) -> Tensor:
        images = images * 2
        hidden = self.first(F.relu(self.norm(images)))
        hidden = images + self.second(torch.relu(self.folded(hidden)))
        hidden = F.relu(self.third(hidden))
        outputs: Tensor = self.last(hidden) + hidden.mean()  # of another shape
        return outputs


@pytest.mark.parametrize("folds", [True, False])
def test_what_convolutions_take_over(folds: bool) -> None:
    torch.manual_seed(0)
    network = Network().eval()
    for norm in (network.norm, network.folded):
        assert norm.running_mean is not None
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.weight, -1, 1)
    twin = twin_of(network, Forward(winograd=True, fold_batch_norm=folds))
    assert twin is not None
    found = {
        name: module.around
        for name, module in twin._network.named_modules()
        if isinstance(module, FusedConv2d)
    }
    assert found == {
        "first": Around("norm" if folds else None, rectified=folds, passes=folds),
        "second": Around(),
        "third": Around(rectified=True),
        "last": Around(),  # where the mean is known
    }
    images = torch.rand(9, 32, 8, 8)
    for back in (torch.randn(9, 32, 8, 8), torch.randn(9, 32, 8, 8)):
        gradients = []
        for run in (network, twin):
            inputs = images.clone().requires_grad_()
            gradients.append(torch.autograd.grad(run(inputs), inputs, back)[0])
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def test_a_hook_or_a_second_call_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(32, 32, 3, padding=1)

        def forward(self, images: Tensor) -> Tensor:
            once: Tensor = F.relu(self.conv(images))
            twice: Tensor = images + self.conv(once)
            return twice

    network, images = Twice().eval(), torch.rand(9, 32, 8, 8)
    twin = twin_of(network, Forward(winograd=True, fold_batch_norm=True))
    assert twin is not None
    torch.testing.assert_close(twin(images), network(images), rtol=1e-4, atol=1e-5)
    hooked = Twice().eval()
    hooked.conv.register_forward_hook(lambda module, given, outputs: outputs * 2)
    twin = twin_of(hooked, Forward(winograd=True, fold_batch_norm=True))
    assert twin is not None
    torch.testing.assert_close(twin(images), hooked(images), rtol=1e-4, atol=1e-5)
