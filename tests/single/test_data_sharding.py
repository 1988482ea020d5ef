"""Every sample exactly once per epoch, for any number of workers."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dathvd.data import (
    epoch_batches,
    mixed_order,
    num_batches,
    permutation,
    worker_slice,
)

sizes = st.integers(1, 70)


@settings(max_examples=60, deadline=None)
@given(samples=sizes, batch_size=sizes, size=st.integers(1, 9), epoch=st.integers(0, 3))
def test_workers_share_every_batch_of_the_same_order(
    samples: int, batch_size: int, size: int, epoch: int
) -> None:
    shares = [
        list(epoch_batches(samples, batch_size, seed=3, epoch=epoch, rank=r, size=size))
        for r in range(size)
    ]
    assert {len(share) for share in shares} == {num_batches(samples, batch_size)}
    joined = [torch.cat(parts) for parts in zip(*shares)]
    assert torch.equal(torch.cat(joined), permutation(samples, seed=3, epoch=epoch))
    assert torch.equal(torch.cat(joined).sort().values, torch.arange(samples))
    for parts in zip(*shares):
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1


def test_a_resumed_epoch_goes_on_where_it_stopped() -> None:
    whole = list(epoch_batches(50, 8, seed=1, epoch=2, rank=1, size=3))
    rest = list(epoch_batches(50, 8, seed=1, epoch=2, rank=1, size=3, first=4))
    assert [part.tolist() for part in rest] == [part.tolist() for part in whole[4:]]


def test_order_depends_on_seed_and_epoch_only() -> None:
    first = permutation(1000, seed=0, epoch=0)
    assert torch.equal(first, permutation(1000, seed=0, epoch=0))
    assert not torch.equal(first, permutation(1000, seed=0, epoch=1))
    assert not torch.equal(first, permutation(1000, seed=1, epoch=0))


def test_workers_beyond_the_batch_get_nothing() -> None:
    batch = torch.tensor([7, 8])
    assert [worker_slice(batch, r, 4).tolist() for r in range(4)] == [[7], [8], [], []]


@settings(max_examples=60, deadline=None)
@given(
    labelled=st.integers(1, 60),
    extra=st.integers(1, 60),
    share=st.floats(0, 0.95),
    epoch=st.integers(0, 5),
)
def test_extra_samples_are_mixed_in_evenly(
    labelled: int, extra: int, share: float, epoch: int
) -> None:
    order = mixed_order(labelled, extra, share, seed=2, epoch=epoch)
    own = order[order < labelled]
    assert torch.equal(own.sort().values, torch.arange(labelled))
    is_extra = (order >= labelled).to(torch.float64)
    for length in (1, 7, len(order)):
        counts = is_extra.unfold(0, min(length, len(order)), 1).sum(1)
        assert (counts - min(length, len(order)) * share).abs().max() <= 1 + 1e-6


def test_extra_samples_take_turns_over_epochs() -> None:
    orders = [mixed_order(10, 7, 0.5, seed=0, epoch=epoch) for epoch in range(7)]
    used = torch.cat([order[order >= 10] for order in orders])
    assert len(used) % 7 in range(7)
    for turn in used.split(7)[: len(used) // 7]:
        assert torch.equal(turn.sort().values, torch.arange(10, 17))


def test_no_extra_share_is_the_plain_order() -> None:
    assert torch.equal(
        mixed_order(20, 5, 0.0, seed=1, epoch=3), permutation(20, seed=1, epoch=3)
    )
