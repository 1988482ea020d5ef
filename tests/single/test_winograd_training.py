"""Winograd's filtering in training passes, and with factors in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dathvd.attacks.winograd import WinogradConv2d
from dathvd.benchmark.step import convolutions
from dathvd.config import ModelConfig, TrainConfig
from dathvd.models import build_model
from dathvd.native import TARGETS
from dathvd.training.convolutions import filtered, filtered_layers
from dathvd.training.passes import TrainingPass, training_pass
from dathvd.winograd import direct_sums, native, suits, weight_gradient

pytestmark = pytest.mark.skipif(
    native.target() in (None, "plain"), reason="needs the compiled loops and AVX2"
)
KINDS = [
    pytest.param(target, torch.float32, 3e-5, id=target)
    for target in ("avx2", "avx512")
]
KINDS.append(
    pytest.param(
        "avx512_bf16",
        torch.bfloat16,
        0.025,  # about 0.01 is usual
        id="bf16",
        marks=pytest.mark.skipif(
            not suits(nn.Conv2d(32, 32, 3, padding=1), torch.bfloat16),
            reason="needs avx512_bf16, and no AMX",
        ),
    )
)
CHANNELS = st.sampled_from([32, 64, 96])


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def passes(conv: nn.Conv2d, images: Tensor, back: Tensor) -> list[Tensor]:
    """Outputs, and gradients of the images, the weights and the bias."""
    inputs = images.clone().requires_grad_()
    outputs = conv(inputs)
    found = torch.autograd.grad(
        outputs, [inputs, *conv.parameters()], back.to(outputs.dtype)
    )
    return [outputs.detach(), *found]


@pytest.mark.parametrize(("target", "dtype", "bound"), KINDS)
@settings(max_examples=12, deadline=None)
@given(
    st.integers(6, 9),
    st.integers(6, 13),
    st.integers(6, 13),
    CHANNELS,
    CHANNELS,
    st.booleans(),
    st.integers(1, 2),
)
def test_all_gradients_are_those_of_the_direct_sum(
    target: str,
    dtype: torch.dtype,
    bound: float,
    count: int,
    height: int,
    width: int,
    inputs: int,
    outputs: int,
    bias: bool,
    pool: int,
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
    images = torch.randn(count, inputs, height, width)
    back = torch.randn(count, outputs, height, width)
    with native.at_most(target), threads(pool), filtered([conv], dtype):
        found = passes(conv, images.to(dtype), back)
    assert found[0].dtype is found[1].dtype is dtype
    assert {each.dtype for each in found[2:]} == {torch.float32}
    exact = passes(conv.double(), images.double(), back.double())
    for ours, theirs in zip(found, exact, strict=True):
        error = (ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt()
        assert 0 < error < bound  # of random sums; a wrong coefficient gives about 1


@pytest.mark.parametrize(("target", "dtype", "bound"), KINDS)
@pytest.mark.parametrize("shape", [(40, 64, 16), (2, 512, 4)], ids=["many", "few"])
def test_a_weight_s_gradient_has_the_same_bits_on_any_number_of_threads(
    target: str, dtype: torch.dtype, bound: float, shape: tuple[int, int, int]
) -> None:
    count, channels, side = shape  # several blocks of tiles, and one
    torch.manual_seed(0)
    images, back = torch.randn(2, count, channels, side, side, dtype=dtype)
    with native.at_most(target):
        with threads(1):
            alone = weight_gradient(images, back)
        with threads(3):
            assert torch.equal(weight_gradient(images, back), alone)


def network() -> nn.Module:
    torch.manual_seed(0)
    config = ModelConfig(name="small_resnet", width=32, normalization="batch")
    return build_model(config, (3, 16, 16), 10).train()


def gradients(train: TrainConfig) -> list[Tensor]:
    model = network()
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    loss = F.cross_entropy(training_pass(model, train)(images), torch.arange(4))
    loss.backward()
    return [weight.grad for weight in model.parameters() if weight.grad is not None]


def test_a_network_s_gradients_and_when_they_are_taken_so() -> None:
    exact = gradients(TrainConfig(winograd=False))
    found = gradients(TrainConfig())
    assert len(found) == len(exact)
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert any(not torch.equal(a, b) for a, b in zip(found, exact))
    again = gradients(TrainConfig(activation_checkpointing=True))
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    with direct_sums():
        assert training_pass(network(), TrainConfig()).__class__ is not TrainingPass


def test_layers_are_themselves_again_afterwards() -> None:
    model = network()
    layers = filtered_layers(model, torch.float32)
    assert layers
    training_pass(model, TrainConfig())(torch.rand(4, 3, 16, 16))
    assert not any("forward" in vars(layer) for layer in layers)


def test_few_patches_are_summed_directly() -> None:
    conv = nn.Conv2d(32, 32, 3, padding=1)
    images = torch.rand(15, 32, 4, 4)
    with filtered([conv], torch.float32):
        assert torch.equal(conv(images), F.conv2d(images, conv.weight, conv.bias, 1, 1))


def test_bfloat16_needs_its_instructions() -> None:
    conv = nn.Conv2d(32, 32, 3, padding=1)
    for target in TARGETS[:-1]:
        with native.at_most(target):
            assert not suits(conv, torch.bfloat16)
    assert not suits(conv, torch.float64)


@pytest.mark.parametrize(("target", "dtype", "bound"), KINDS[-1:])
def test_the_attack_s_layers_in_bfloat16(
    target: str, dtype: torch.dtype, bound: float
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 32, 3, padding=1)
    fast = WinogradConv2d(conv, dtype)
    fast.set(
        conv.weight.detach(), conv.bias.detach() if conv.bias is not None else None
    )
    images = torch.rand(4, 64, 9, 9)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = fast(images)
    exact = conv(images).detach()
    assert found.dtype is dtype
    assert (found - exact).square().mean().sqrt() / exact.std() < bound


def test_layers_can_be_measured() -> None:
    arguments = ["--batch-size", "1", "--repeats", "1"]
    result = CliRunner().invoke(convolutions.main, arguments)
    assert result.exit_code == 0, result.output
    rows = result.output.splitlines()[1:]
    direct = [f"{channels}" for channels, _ in convolutions.LAYERS for _ in range(2)]
    assert [row.split()[0] for row in rows if ", direct" in row] == direct
    assert sum("float32, Winograd" in row for row in rows) == len(convolutions.LAYERS)
