"""Layers with random numbers of their own, which belong to the samples they see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dathvd.noise import SampleNoise

_STREAM = 1_000_000  # the first stream of these layers; lower ones belong to attacks


@dataclass
class _Draws:
    """Where random numbers come from: each call of a layer takes the next stream."""

    noise: SampleNoise
    stream: int = _STREAM

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Uniform numbers in [0, 1) of the next stream."""
        self.stream += 1
        return self.noise.uniform(shape, self.stream - 1)


_draws: ContextVar[_Draws | None] = ContextVar("draws", default=None)


@contextmanager
def draws_from(noise: SampleNoise) -> Iterator[None]:
    """Let the layers of this module draw from ``noise``, each call from a new stream.

    What a sample's features are multiplied by then depends neither on the other samples
    of its batch nor on how many workers share it.

    Args:
        noise: of the samples that the network is shown, in their order.
    """
    with _drawing(_Draws(noise)):
        yield


def draws_go_on() -> AbstractContextManager[None]:
    """A context, to be entered later, in which layers draw as they would from now on.

    For who runs a part of a network again.
    """
    draws = _draws.get()
    return _drawing(None if draws is None else replace(draws))


@contextmanager
def _drawing(draws: _Draws | None) -> Iterator[None]:
    token = _draws.set(draws)
    try:
        yield
    finally:
        _draws.reset(token)


class StochasticDepth(nn.Module):
    """Drops whole samples' features while training, and scales up the others'.

    Huang et al., Deep Networks with Stochastic Depth (ECCV 2016), as ConvNeXt uses it:
    a residual branch's output is multiplied by 0 with probability p, else by 1 / (1-p).
    Outside of ``draws_from`` it draws from torch's global generator.

    Args:
        p: the probability, in [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, features: Tensor) -> Tensor:
        """``[batch, ...]`` to the same shape."""
        if not self.training or self.p == 0.0:
            return features
        shape = (len(features),) + (1,) * (features.dim() - 1)
        kept = _uniform(shape, features.device) >= self.p
        return features * kept.to(features.dtype).div_(1.0 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


def _uniform(shape: tuple[int, ...], device: torch.device) -> Tensor:
    draws = _draws.get()
    return torch.rand(shape, device=device) if draws is None else draws.uniform(shape)
