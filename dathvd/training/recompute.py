"""Activation checkpointing: blocks computed twice, so that less has to be kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from dathvd.errors import UserError
from dathvd.models import draws_go_on


def repeated_blocks(network: nn.Module) -> list[nn.Module]:
    """The modules that a network is a sequence of, such as its residual blocks.

    Each is an entry of a ``Sequential`` or ``ModuleList``, holds at least two layers
    with weights, and contains no two such blocks itself: one alone, such as a residual
    block's squeeze and excitation, is a part of it.

    Raises:
        UserError: there are none.
    """
    found = find_blocks(network)
    if not found:
        raise UserError(
            "train.activation_checkpointing: this network has no blocks in a "
            "Sequential whose activations could be computed anew; set it to false"
        )
    return found


def find_blocks(network: nn.Module) -> list[nn.Module]:
    """The same, none where there are none."""
    return list(_blocks(network))


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    listed = isinstance(module, nn.Sequential | nn.ModuleList)
    for child in module.children():
        inner = list(_blocks(child))
        repeated = listed and not isinstance(child, nn.Sequential)
        if repeated and len(inner) < 2 and _has_layers(child):
            yield child
        else:
            yield from inner


def _has_layers(module: nn.Module) -> bool:
    own = [each for each in module.modules() if list(each.parameters(False))]
    return len(own) >= 2


@contextmanager
def recomputed(
    blocks: Sequence[nn.Module],
    again: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[None]:
    """Let blocks keep their inputs alone in forward passes inside of this context.

    Args:
        blocks: modules of a network.
        again: the context in which blocks run a second time.

    Chen et al., Training Deep Nets with Sublinear Memory Cost (2016): the backward pass
    runs a block again when it needs what is inside. Gradients, running statistics and
    random numbers have the same bits as without: the second run takes the weights, the
    buffers' values and the random numbers of the first, and what it writes into buffers
    is dropped.
    """
    for block in blocks:
        block.forward = _checkpointed(block, block.forward, again)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # uncovers the method of the block's class


def _checkpointed(
    block: nn.Module,
    forward: Callable[..., Any],
    again: Callable[[], AbstractContextManager[None]],
) -> Callable[..., Any]:
    def run(*inputs: Any) -> Any:
        weights = dict(block.named_parameters())
        buffers = {name: each.clone() for name, each in block.named_buffers()}
        tensors = weights | buffers
        runs = iter((forward, lambda *given: functional_call(block, tensors, given)))
        draws = draws_go_on()

        def contexts() -> (
            tuple[AbstractContextManager[None], AbstractContextManager[None]]
        ):
            return nullcontext(), _both(again(), draws)

        return checkpoint(
            lambda *given: next(runs)(*given),
            *inputs,
            use_reentrant=False,
            context_fn=contexts,
        )

    return run


@contextmanager
def _both(
    outer: AbstractContextManager[None], inner: AbstractContextManager[None]
) -> Iterator[None]:
    with outer, inner:
        yield
