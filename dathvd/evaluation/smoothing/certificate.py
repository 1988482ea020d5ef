"""One image's certificate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor, nn

from dathvd.noise import SampleNoise

ABSTAIN = -1
"""The class of an image of which nothing is certain."""


@dataclass(frozen=True)
class Smoothing:
    """What is asked of the smoothed network."""

    sigma: float
    """Standard deviation of the normal noise, in pixel units of [0, 1]."""
    num_guess: int = 100
    """Draws that choose the class."""
    num_draws: int = 100_000
    """Draws that bound its probability."""
    failure: float = 0.001
    """Probability, at most, with which a certificate is wrong (the paper's alpha)."""
    batch_size: int = 1000
    """Draws at once."""


@dataclass(frozen=True)
class Certificate:
    """The smoothed network's prediction, and how far it holds."""

    predicted: int
    """The class, or ``ABSTAIN``."""
    radius: float
    """Euclidean length, in pixel units, of changes that cannot alter it; 0 where
    nothing is certain."""


def lower_bound(hits: int, draws: int, failure: float) -> float:
    """Below the probability of a hit but with the probability ``failure``.

    One-sided, exact (Clopper and Pearson, 1934): a quantile of Beta(hits, misses + 1)

    Args:
        hits: 0 to ``draws``.
        draws: at least 1.
        failure: in (0, 1).
    """
    if hits == 0:
        return 0.0
    return float(special.betaincinv(hits, draws - hits + 1, failure))


def radius_of(bound: float, sigma: float) -> float:
    """sigma * the normal quantile of a bound above 1/2 (theorem 1), else 0."""
    return sigma * float(special.ndtri(bound)) if bound > 0.5 else 0.0


def certify(
    model: nn.Module, image: Tensor, seed: int, asked: Smoothing
) -> Certificate:
    """The paper's CERTIFY (section 3.2.2), where the runner-up has the rest.

    Args:
        model: from images to logits, in eval mode; its input leaves [0, 1].
        image: ``[C, H, W]`` in [0, 1].
        seed: of this image's draws, which do not depend on how many come at once.
        asked: the noise and the numbers of draws.
    """
    guess = _counts(model, image, seed, 0, asked.num_guess, asked)
    top = int(guess.argmax())
    last = asked.num_guess + asked.num_draws
    counts = _counts(model, image, seed, asked.num_guess, last, asked)
    bound = lower_bound(int(counts[top]), asked.num_draws, asked.failure)
    if bound <= 0.5:
        return Certificate(ABSTAIN, 0.0)
    return Certificate(top, radius_of(bound, asked.sigma))


@torch.no_grad()
def _counts(
    model: nn.Module, image: Tensor, seed: int, first: int, last: int, asked: Smoothing
) -> Tensor:
    """How often each class is predicted in those draws, int64 ``[classes]``."""
    total: Tensor | None = None
    for start in range(first, last, asked.batch_size):
        draws = torch.arange(start, min(start + asked.batch_size, last))
        noise = SampleNoise(seed, draws.to(image.device))
        normal = noise.normal((len(draws), *image.shape))
        logits = model(image + asked.sigma * normal)
        said = logits[~logits.isnan().any(dim=1)]  # argmax would take NaN for a class
        found = said.argmax(dim=1).bincount(minlength=logits.shape[1])
        total = found if total is None else total + found
    assert total is not None
    return total
