"""Each compiled convolution, and what it does on the way, against double precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dathvd.convolutions import (
    Fusion,
    Kernel,
    Shape,
    direct,
    kernel_for,
    room,
    shape_of,
    tiles,
    winograd,
)
from dathvd.native import TARGETS
from tests.single.small_models import threads

pytestmark = pytest.mark.skipif(
    winograd.native.target() in (None, "plain"),
    reason="needs the compiled loops and AVX2",
)
HAS_BF16 = winograd.native.target() == "avx512_bf16"
HAS_TILES = tiles.native.target() == "amx"
LAST = torch.channels_last


@dataclass(frozen=True)
class Way:
    """A kernel on one instruction set."""

    kernel: Kernel
    target: str
    dtype: torch.dtype
    bound: float
    """Of the errors' root mean square, of random sums' one; a wrong coefficient gives
    about 1."""
    layers: tuple[tuple[int, int], ...] = ((3, 1),)
    """Kernels and strides."""

    @contextmanager
    def taken(self) -> Iterator[None]:
        """A block in which this instruction set is the best there is."""
        with ExitStack() as stack:
            if not isinstance(self.kernel, tiles.Tiles):
                stack.enter_context(tiles.native.at_most("none"))
                stack.enter_context(winograd.native.at_most(self.target))
            yield


OTHERS = ((3, 2), (1, 2), (1, 1))
WAYS = [
    *(
        pytest.param(
            Way(winograd.Winograd(), target, torch.float32, 3e-5),
            id=f"winograd {target}",
        )
        for target in ("avx2", "avx512")
    ),
    *(
        pytest.param(
            Way(direct.Direct(), target, torch.float32, 3e-6, OTHERS),
            id=f"direct {target}",
        )
        for target in ("avx2", "avx512")
    ),
    pytest.param(
        Way(winograd.Winograd(), "avx512_bf16", torch.bfloat16, 0.025),
        id="winograd bf16",
        marks=pytest.mark.skipif(not HAS_BF16, reason="needs avx512_bf16"),
    ),
    pytest.param(
        Way(tiles.Tiles(), "amx", torch.bfloat16, 0.004, ((3, 1), *OTHERS)),
        id="tiles",
        marks=pytest.mark.skipif(not HAS_TILES, reason="needs AMX"),
    ),
]
CHANNELS = st.sampled_from([32, 64, 96])


def images_of(*size: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(size).to(dtype).contiguous(memory_format=LAST)


def error(found: Tensor, exact: Tensor) -> float:
    difference = (found - exact).square().mean().sqrt()
    return float(difference / exact.square().mean().sqrt())


def factors(kernel: Kernel, weight: Tensor, shape: Shape, dtype: torch.dtype) -> Tensor:
    return kernel.transform(weight, room(kernel, weight, dtype), shape)


def adjoint_factors(
    kernel: Kernel, weight: Tensor, shape: Shape, dtype: torch.dtype
) -> Tensor:
    return kernel.transform(weight, room(kernel, weight, dtype), shape, adjoint=True)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 40),
    st.integers(1, 9),
    st.integers(1, 19),
    CHANNELS,
    CHANNELS,
    st.integers(0, 3),
    st.integers(1, 2),
)
def test_outputs_and_both_gradients(
    way: Way,
    count: int,
    height: int,
    width: int,
    inputs: int,
    outputs: int,
    layer: int,
    pool: int,
) -> None:
    side, stride = way.layers[layer % len(way.layers)]
    kernel, shape = way.kernel, Shape(inputs, outputs, side, stride)
    torch.manual_seed(0)
    images = images_of(count, inputs, height, width, dtype=way.dtype)
    if not kernel.takes(images, shape, prepared=True):
        return
    weight = torch.randn(outputs, inputs, side, side)
    back = images_of(*shape.outputs_of(images), dtype=way.dtype)
    with way.taken(), threads(pool):
        found = (
            kernel.convolve(images, factors(kernel, weight, shape, way.dtype), shape),
            kernel.adjoint(
                back,
                adjoint_factors(kernel, weight, shape, way.dtype),
                shape,
                images.shape,
            ),
            kernel.weight_gradient(images, back, shape),
        )
    exact_images = images.double().requires_grad_()
    exact_weight = weight.double().requires_grad_()
    exact = F.conv2d(exact_images, exact_weight, None, stride, side // 2)
    gradients = torch.autograd.grad(exact, [exact_images, exact_weight], back.double())
    assert [each.dtype for each in found] == [way.dtype, way.dtype, torch.float32]
    for ours, theirs in zip(found, [exact.detach(), *gradients], strict=True):
        assert ours.shape == theirs.shape
        assert 0 < error(ours, theirs) < way.bound


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [3, 33])
def test_what_is_fused_is_what_stands_around(way: Way, count: int) -> None:
    side, stride = way.layers[0]
    kernel, shape = way.kernel, Shape(64, 32, side, stride)
    torch.manual_seed(0)
    images = images_of(count, 64, 9, 12, dtype=way.dtype)
    if not kernel.takes(images, shape, prepared=True):
        pytest.skip("too few images of this stride")
    size = shape.outputs_of(images)
    weight = torch.randn(32, 64, side, side) / 24
    scale, shift, bias = torch.randn(64), torch.randn(64), torch.randn(32)
    residual, back = images_of(*size, dtype=way.dtype), images_of(
        *size, dtype=way.dtype
    )
    passed = images_of(count, 64, 9, 12, dtype=way.dtype)

    exact_images = images.double().requires_grad_()
    wide = (-1, 1, 1)
    entered = scale.double().view(wide) * exact_images + shift.double().view(wide)
    summed = F.conv2d(F.relu(entered), weight.double(), None, stride, side // 2)
    exact = F.relu(summed + bias.double().view(wide) + residual.double())
    forward = Fusion(
        scale_in=scale, shift_in=shift, bias=bias, residual=residual, rectified=True
    )
    with way.taken():
        there = factors(kernel, weight, shape, way.dtype)
        outputs = kernel.convolve(images, there, shape, forward)
        backward = Fusion(
            mask=outputs,
            gate=images,
            scale_out=scale,
            shift_out=shift,
            residual=passed,
        )
        again = adjoint_factors(kernel, weight, shape, way.dtype)
        gradient = kernel.adjoint(back, again, shape, images.shape, backward)
    assert error(outputs, exact.detach()) < way.bound
    # what is open is open for both
    masked = back.double() * (outputs > 0)
    (exact_gradient,) = torch.autograd.grad(summed, exact_images, masked)
    assert error(gradient, exact_gradient + passed.double()) < way.bound


@pytest.mark.parametrize("way", WAYS)
def test_no_number_is_not_hidden(way: Way) -> None:
    side, stride = way.layers[0]
    shape = Shape(32, 32, side, stride)
    images = torch.zeros(32, 32, 8, 8, dtype=way.dtype).contiguous(memory_format=LAST)
    images[20, 3, 4, 4] = torch.nan
    ones, weight = torch.ones(32), torch.ones(32, 32, side, side)
    fusion = Fusion(scale_in=ones, shift_in=ones, bias=ones, rectified=True)
    with way.taken():
        there = factors(way.kernel, weight, shape, way.dtype)
        found = way.kernel.convolve(images, there, shape, fusion)
    bad = found.isnan().flatten(1).any(dim=1)
    assert bad.nonzero().flatten().tolist() == [20]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [(40, 64, 16), (2, 512, 4), (17, 64, 3)], ids=str)
def test_bits_do_not_depend_on_the_threads(
    way: Way, size: tuple[int, int, int]
) -> None:
    count, channels, pixels = size  # several blocks of work, and one
    for side, stride in way.layers:
        shape = Shape(channels, channels, side, stride)
        torch.manual_seed(0)
        images = images_of(count, channels, pixels, pixels, dtype=way.dtype)
        if not way.kernel.takes(images, shape, prepared=True):
            continue
        back = images_of(*shape.outputs_of(images), dtype=way.dtype)
        weight = torch.randn(channels, channels, side, side)
        found = []
        for pool in (1, 3):
            with way.taken(), threads(pool):
                there = factors(way.kernel, weight, shape, way.dtype)
                again = adjoint_factors(way.kernel, weight, shape, way.dtype)
                of_weight = way.kernel.weight_gradient(images, back, shape)
                outputs = way.kernel.convolve(images, there, shape)
                gradient = way.kernel.adjoint(back, again, shape, images.shape)
                found.append((outputs, gradient, of_weight))
        torch_sums = isinstance(way.kernel, direct.Direct)
        for one, other in list(zip(*found))[: 2 if torch_sums else 3]:
            assert torch.equal(one, other)


def test_bfloat16_needs_its_instructions() -> None:
    conv = nn.Conv2d(32, 32, 3, padding=1)
    with tiles.native.at_most("none"):
        for target in TARGETS[:-1]:
            with winograd.native.at_most(target):
                assert kernel_for(conv, torch.bfloat16) is None
        kernel = kernel_for(conv, torch.bfloat16)
        assert isinstance(kernel, winograd.Winograd) is HAS_BF16
    assert isinstance(kernel_for(conv, torch.bfloat16), tiles.Tiles) is HAS_TILES
    assert kernel_for(conv, torch.float64) is None


def test_the_kernel_of_each_layer() -> None:
    found = {
        (side, stride): type(kernel_for(nn.Conv2d(32, 64, side, stride, side // 2)))
        for side, stride in ((3, 1), (3, 2), (1, 1), (1, 2))
    }
    assert found.pop((3, 1)) is winograd.Winograd
    assert set(found.values()) == {direct.Direct}
    assert shape_of(nn.Conv2d(32, 64, 3, 2, 1)) == Shape(32, 64, 3, 2)
