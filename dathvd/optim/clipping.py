"""Gradients of bounded length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_


def clipping(
    parameters: Sequence[Parameter], max_norm: float | None
) -> Callable[[], None]:
    """What scales the gradients of all parameters down to a common length.

    Pascanu, Mikolov and Bengio, On the Difficulty of Training Recurrent Neural Networks
    (ICML 2013), algorithm 1. It waits for nothing.

    Args:
        parameters: whose gradients are one vector together.
        max_norm: its Euclidean length at most; None for any.
    """

    def clip() -> None:
        if max_norm is not None:
            clip_grad_norm_(parameters, max_norm, foreach=True)

    return clip
