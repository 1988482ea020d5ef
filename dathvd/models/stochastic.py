"""Layers with random numbers of their own, which belong to the samples they see."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from dathvd.noise import SampleNoise

_STREAM = 1_000_000  # the first stream of these layers; lower ones belong to attacks

Source = Iterator[tuple[SampleNoise, int]]
"""Noise and a stream of it for one call of one layer."""
_source: ContextVar[Source | None] = ContextVar("source", default=None)


@contextmanager
def draws_from(noise: SampleNoise) -> Iterator[None]:
    """Let the layers of this module draw from ``noise``, each call from a new stream.

    What a sample's features are multiplied by then depends neither on the other samples
    of its batch nor on how many workers share it.

    Args:
        noise: of the samples that the network is shown, in their order.
    """
    calls = ((noise, stream) for stream in itertools.count(_STREAM))
    token = _source.set(calls)
    try:
        yield
    finally:
        _source.reset(token)


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
    source = _source.get()
    if source is None:
        return torch.rand(shape, device=device)
    noise, stream = next(source)
    return noise.uniform(shape, stream)
