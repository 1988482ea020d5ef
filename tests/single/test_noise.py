"""Draws that belong to a sample: independent of its batch, uniform, uncorrelated."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dathvd.noise import SampleNoise, mix_seed


@given(
    seed=st.integers(-(2**70), 2**70),
    ids=st.lists(st.integers(0, 2**40), min_size=1, max_size=9, unique=True),
    stream=st.integers(0, 10),
)
@settings(max_examples=40, deadline=None)
def test_a_draw_depends_on_the_sample_alone(
    seed: int, ids: list[int], stream: int
) -> None:
    together = SampleNoise(seed, torch.tensor(ids)).uniform((len(ids), 2, 3), stream)
    for row, sample in enumerate(ids):
        alone = SampleNoise(seed, torch.tensor([sample])).uniform((1, 2, 3), stream)
        assert torch.equal(alone[0], together[row])


def test_uniform_draws_are_uniform() -> None:
    draws = SampleNoise(1, torch.arange(1000)).uniform((1000, 1000))
    assert 0 <= float(draws.min()) and float(draws.max()) < 1
    counts = torch.histc(draws, bins=100, min=0, max=1)
    chi_squared = float(((counts - 1e4) ** 2 / 1e4).sum())
    assert 50 < chi_squared < 162  # 99 degrees of freedom, p within about 1e-4


def test_samples_positions_streams_and_seeds_are_uncorrelated() -> None:
    first = SampleNoise(1, torch.arange(1000)).uniform((1000, 1000)) - 0.5
    others = [
        first.roll(1, 0),
        first.roll(1, 1),
        SampleNoise(1, torch.arange(1000)).uniform((1000, 1000), 1) - 0.5,
        SampleNoise(2, torch.arange(1000)).uniform((1000, 1000)) - 0.5,
    ]
    for other in others:
        correlation = float((first * other).mean()) * 12
        assert abs(correlation) < 5e-3  # five standard deviations of 1e-3


def test_normal_draws_have_the_moments_of_a_normal() -> None:
    draws = SampleNoise(3, torch.arange(1000)).normal((1000, 1000)).double()
    assert abs(float(draws.mean())) < 5e-3
    assert abs(float(draws.var()) - 1) < 1e-2
    assert abs(float((draws**4).mean()) - 3) < 5e-2
    assert torch.isfinite(draws).all()


def test_mix_seed_tells_orders_and_lengths_apart() -> None:
    seeds = {mix_seed(*parts) for parts in [(1, 2), (2, 1), (1,), (1, 2, 0), (12,)]}
    assert len(seeds) == 5
