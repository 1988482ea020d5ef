"""Compiled convolutions in training passes, and in bfloat16."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import Tensor, nn

from dathvd.benchmark.step import convolutions
from dathvd.config import ModelConfig, TrainConfig
from dathvd.convolutions import direct_sums, winograd
from dathvd.models import build_model
from dathvd.training.convolutions import filtered, filtered_layers
from dathvd.training.passes import TrainingPass, training_pass

pytestmark = pytest.mark.skipif(
    winograd.native.target() in (None, "plain"),
    reason="needs the compiled loops and AVX2",
)


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


def test_layers_can_be_measured() -> None:
    arguments = ["--batch-size", "1", "--repeats", "1"]
    result = CliRunner().invoke(convolutions.main, arguments)
    assert result.exit_code == 0, result.output
    rows = result.output.splitlines()[1:]
    assert sum(", torch" in row for row in rows) == 2 * len(convolutions.LAYERS)
    # of one image there are too few patches of the last layer, and pixels of strides
    filtered = sum("float32, winograd" in row for row in rows)
    assert 2 <= filtered <= sum(stride == 1 for *_, stride in convolutions.LAYERS)
