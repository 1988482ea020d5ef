"""The last layers of a network, and the trunk before them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from torch import nn


class Projection(nn.Sequential):
    """Linear, activation, linear: from features to embeddings.

    Chen et al., A Simple Framework for Contrastive Learning (ICML 2020), section 4.2.

    Args:
        features: the trunk's outputs, also the units between the layers.
        outputs: length of the embeddings.
        activation: makes the layer between them.
    """

    def __init__(
        self, features: int, outputs: int, activation: Callable[[], nn.Module]
    ) -> None:
        super().__init__(
            nn.Linear(features, features), activation(), nn.Linear(features, outputs)
        )


def head_name(network: nn.Module) -> str:
    """The dotted name of the network's head: its projection, or its last linear layer.

    Every network of ``MODELS`` ends with a linear layer.
    """
    named = list(network.named_modules())
    projections = [name for name, module in named if isinstance(module, Projection)]
    linears = [name for name, module in named if isinstance(module, nn.Linear)]
    name: str = (projections or linears)[-1]
    return name


def put_projection(network: nn.Module, activation: Callable[[], nn.Module]) -> None:
    """Exchange the last linear layer for a projection of the same sizes."""
    parent, _, name = head_name(network).rpartition(".")
    place = network.get_submodule(parent)
    linear = getattr(place, name)
    setattr(
        place, name, Projection(linear.in_features, linear.out_features, activation)
    )


def freeze_trunk(network: nn.Module) -> None:
    """Let nothing but the head change: neither weights nor batch-norm statistics.

    The trunk's layers stay in eval mode whatever mode the network is put in.
    """
    head = network.get_submodule(head_name(network))
    trained = set(head.parameters())
    for parameter in network.parameters():
        parameter.requires_grad_(parameter in trained)
    own = set(head.modules())
    for module in network.modules():
        depends_on_mode = not isinstance(module, (nn.Conv2d, nn.Linear))
        if depends_on_mode and module not in own and not list(module.children()):
            module.eval()
            module.__class__ = _frozen(type(module))


class _Frozen(nn.Module):
    """A layer that stays in the mode in which it is."""

    def train(self, mode: bool = True) -> Self:
        return self


def _frozen(kind: type[nn.Module]) -> type[nn.Module]:
    """The same layer, frozen; a class, as an attack copies layers with their dicts."""
    module = {"__module__": kind.__module__}  # torch.fx takes torch's layers whole
    return type(f"Frozen{kind.__name__}", (_Frozen, kind), module)
