"""Activation checkpointing: less is kept, and no bit of the result changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dathvd.config import load_config
from dathvd.data import load_dataset
from dathvd.errors import UserError
from dathvd.models import build_model
from dathvd.training.batches import plan_of
from dathvd.training.build import build_training, first_model
from dathvd.training.recompute import recomputed, repeated_blocks
from tests.single.small_models import one_of_each_kind, trainable

CPU = torch.device("cpu")
ON = "train.activation_checkpointing=true"


def trained(*settings: str) -> dict[str, Tensor]:
    """Weights and buffers after two steps."""
    quick = [
        "data.name=synthetic", "data.num_train=8", "data.num_test=1",
        "data.image_size=8", "train.batch_size=4", "attack.num_steps=1",
    ]  # fmt: skip
    config = load_config(None, [*quick, *settings])
    dataset = load_dataset(config.data)
    trainer = build_training(config, first_model(config, dataset), CPU)
    plan = plan_of(config, dataset, CPU, 0, 1)
    for step in range(2):
        trainer.step(list(plan.step(step)), 0.01, (), step)
    return trainer.model.state_dict()


def assert_no_bit_changes(*settings: str) -> None:
    kept, recomputed_ = trained(*settings), trained(*settings, ON)
    assert kept.keys() == recomputed_.keys()
    for name, tensor in kept.items():
        assert torch.equal(tensor, recomputed_[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("name", one_of_each_kind())
def test_every_network(name: str) -> None:
    size = 32 if name.startswith("convnext") else 8
    settings = [f"model.name={trainable(name)}", f"data.image_size={size}"]
    settings += ["attack.name=none", "objective.name=plain"]
    if name in ("small_cnn", "mlp"):  # no sequences of blocks
        with pytest.raises(UserError, match="has no blocks"):
            trained(*settings, ON)
    else:
        assert_no_bit_changes(*settings)


@pytest.mark.parametrize(
    "settings",
    [
        ["objective.name=trades"],
        ["objective.name=mart"],
        ["objective.weight_perturbation=0.01"],
        ["objective.weight_perturbation=0.01", "objective.name=trades"],
        ["train.backward_passes_per_step=2"],
        ["attack.name=free", "attack.replays=2"],
        ["attack.model_mode=train"],
        ["model.init=elsewhere", "model.init_mode=linear"],
        ["optimizer.name=sgd", "train.ema_decay=0.9"],
    ],
    ids=" ".join,
)
def test_every_kind_of_pass(settings: list[str]) -> None:
    assert_no_bit_changes("model.name=small_resnet", "model.width=8", *settings)


def kept_bytes(network: nn.Module, blocks: list[nn.Module]) -> int:
    """What a forward pass keeps for the backward pass, the blocks' inputs included."""
    sizes: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for each in inputs:
            count(each)

    watched = [block.register_forward_pre_hook(look) for block in blocks]
    hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda kept: kept)
    with recomputed(blocks), hooks:
        network(torch.rand(4, 3, 32, 32))
    for hook in watched:
        hook.remove()
    return sum(sizes)


def test_it_saves_memory() -> None:
    config = load_config(None, ["model.name=preact_resnet18", "data.name=synthetic"])
    network = first_model(config, load_dataset(config.data))
    blocks = repeated_blocks(network)
    assert len(blocks) == 8
    assert kept_bytes(network, blocks) < kept_bytes(network, []) / 5


def test_a_squeeze_and_excitation_is_a_part_of_its_block() -> None:
    config = load_config(None, ["model.name=ra_wide_resnet_70_16"]).model
    with torch.device("meta"):
        network = build_model(config, (3, 32, 32), 10)
    names = {type(block).__name__ for block in repeated_blocks(network)}
    assert names == {"PreActSqueezeBlock"}
    assert len(repeated_blocks(network)) == 30 + 31 + 10


def test_a_block_is_itself_again_afterwards() -> None:
    block = nn.Module()
    block.one, block.two = nn.Linear(2, 2), nn.Linear(2, 2)
    network = nn.Sequential(block)
    assert repeated_blocks(network) == [block]
    with recomputed([block]):
        assert "forward" in vars(block)
    assert "forward" not in vars(block)


@pytest.mark.parametrize(
    "other", ["train.compile=true", "train.batch_norm=synchronised"]
)
def test_what_it_cannot_go_with_is_refused(other: str) -> None:
    with pytest.raises(UserError, match="train.activation_checkpointing"):
        load_config(None, [ON, other])
