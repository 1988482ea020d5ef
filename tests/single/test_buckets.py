"""The plan of buckets and chunks, and the hash that makes seeds."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dathvd.compression import Compression
from dathvd.distributed.buckets import Bucket, chunk_cuts, fingerprint, plan_buckets
from dathvd.distributed.exchange_choice import choose_exchange
from dathvd.distributed.placement import Place, Placement, nodes_of
from dathvd.errors import UserError
from dathvd.noise import codec_seed
from dathvd.runtime import PROCESS_SETS

shapes = st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple)
models = st.lists(shapes, max_size=12)


def parameters(model: list[tuple[int, ...]]) -> list[tuple[str, Tensor]]:
    return [
        (f"p{place}", torch.zeros(shape, requires_grad=True))
        for place, shape in enumerate(model)
    ]


def names(buckets: tuple[Bucket, ...], compressed: bool) -> list[str]:
    return [s.name for b in buckets if b.compressed is compressed for s in b.slots]


@given(models, st.integers(1, 20_000), st.integers(1, 2000))
def test_every_parameter_has_one_place(
    model: list[tuple[int, ...]], bucket_bytes: int, min_values: int
) -> None:
    named = parameters(model)
    buckets = plan_buckets(named, bucket_bytes, min_values)
    assert [bucket.index for bucket in buckets] == list(range(len(buckets)))
    backward = [name for name, _ in reversed(named)]
    large = {n for n, p in named if p.dim() > 1 and p.numel() >= min_values}
    # within each kind the order is backward's, over all buckets
    assert names(buckets, True) == [name for name in backward if name in large]
    assert names(buckets, False) == [name for name in backward if name not in large]
    for bucket in buckets:
        assert len(bucket.slots) == 1 or bucket.num_values * 4 <= bucket_bytes
        flat = torch.zeros(bucket.num_values)
        for slot in bucket.slots:
            slot.view(flat).add_(1)
        assert torch.equal(flat, torch.ones_like(flat))


@given(models)
def test_the_plan_is_a_pure_function(model: list[tuple[int, ...]]) -> None:
    plans = [plan_buckets(parameters(model), 4000, 10) for _ in range(2)]
    assert plans[0] == plans[1]
    assert fingerprint(plans[0]) == fingerprint(plans[1])


def test_the_fingerprint_tells_plans_apart() -> None:
    named = parameters([(30, 30), (30,), (40, 30)])
    seen = {
        fingerprint(plan_buckets(named, bucket_bytes, min_values))
        for bucket_bytes, min_values in [(10**6, 10), (4000, 10), (10**6, 1000)]
    }
    assert len(seen) == 3


def test_small_tensors_leave_with_the_large_bucket_before_them() -> None:
    model = [(50, 50), (50,), (50, 50), (50,), (50, 50), (50,)]
    buckets = plan_buckets(parameters(model), bucket_bytes=2 * 10_000)
    assert [(b.compressed, [s.name for s in b.slots]) for b in buckets] == [
        (False, ["p5", "p3", "p1"]),
        (True, ["p4", "p2"]),
        (True, ["p0"]),
    ]


def test_frozen_parameters_and_other_types_are_apart() -> None:
    frozen = torch.zeros(40, 40)
    half = torch.zeros(40, 40, dtype=torch.bfloat16, requires_grad=True)
    whole = torch.zeros(40, 40, requires_grad=True)
    buckets = plan_buckets([("frozen", frozen), ("half", half), ("whole", whole)])
    assert names(buckets, True) == ["whole"]
    assert names(buckets, False) == ["half"]
    assert buckets[1].dtype == torch.float32  # what Horovod can add


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "contiguous"])
def test_a_bucket_holds_matrices_with_rows_outermost(layout: str) -> None:
    value = torch.randn(6, 4, 3, 3)
    if layout == "channels_last":
        value = value.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        value = torch.randn(4, 6, 3, 3).transpose(0, 1)
    named = [("weight", value.requires_grad_())]
    (bucket,) = plan_buckets(named, min_values=1)
    flat = torch.zeros(bucket.num_values)
    (slot,) = bucket.slots
    slot.view(flat).copy_(value.detach())
    assert torch.equal(slot.view(flat), value)
    assert slot.matrix == (6, 36)
    rows = flat.view(slot.matrix)
    for row, expected in zip(rows, value.detach()):
        assert torch.equal(row.sort().values, expected.flatten().sort().values)
    if layout == "channels_last":
        assert slot.stride == value.stride()


@given(st.integers(1, 10**6), st.integers(1, 64), st.sampled_from([1, 8, 512, 4096]))
def test_chunks_cover_a_bucket_in_whole_blocks(n: int, size: int, block: int) -> None:
    cuts = chunk_cuts(n, size, block)
    assert cuts[0] == 0 and cuts[-1] == n and len(cuts) == size + 1
    lengths = [end - start for start, end in zip(cuts, cuts[1:])]
    assert all(cut % block == 0 for cut in cuts[:-1] if cut < n)
    assert max(lengths) - min(lengths) < 2 * block


def placed(*counts: int) -> Placement:
    """Rank 0 among nodes of so many ranks each."""
    ranks = iter(range(sum(counts)))
    return Placement(0, tuple(tuple(itertools.islice(ranks, n)) for n in counts))


def test_the_default_exchange_depends_on_codec_and_workers() -> None:
    for size, sign in ((1, "allgather"), (2, "allgather"), (3, "two-way")):
        for place in (placed(size), placed(*[1] * size)):
            assert choose_exchange(Compression.sign(), "auto", place).name == sign
            for codec in (Compression.none(), Compression.powersgd()):
                assert choose_exchange(codec, "auto", place).name == "allreduce"
            paper = choose_exchange(Compression.paper(), "auto", place)
            assert paper.name == "allgather"


def test_where_nodes_have_several_ranks_auto_sends_once_a_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sign, fp16 = Compression.sign(), Compression.fp16()
    monkeypatch.setenv(PROCESS_SETS, "1")
    for place, words in ((placed(8, 8), "2 nodes of 8 ranks"), (placed(2, 1), "2 and")):
        chosen = choose_exchange(sign, "auto", place)
        assert chosen.name == "hierarchical" and words in chosen.reason
        assert choose_exchange(fp16, "auto", place).name == "allreduce"
    monkeypatch.delenv(PROCESS_SETS)
    chosen = choose_exchange(sign, "auto", placed(8, 8))
    assert chosen.name == "two-way" and PROCESS_SETS in chosen.reason
    with pytest.raises(UserError, match=PROCESS_SETS):
        choose_exchange(sign, "hierarchical", placed(8, 8))


def test_hierarchical_is_two_way_with_one_rank_a_node() -> None:
    for place in (placed(1), placed(1, 1, 1)):
        chosen = choose_exchange(Compression.sign(), "hierarchical", place)
        assert chosen.name == "two-way" and "1 rank" in chosen.reason
    with pytest.raises(UserError, match="paper cannot be carried by hierarchical"):
        choose_exchange(Compression.paper(), "hierarchical", placed(2, 2))


def places_of(nodes: list[list[int]], hosts: list[int]) -> list[Place]:
    """As Horovod counts: local and cross ranks in the order of ranks."""
    places = {}
    for node, host in zip(nodes, hosts):
        for local, rank in enumerate(node):
            peers = sorted(ranks[local] for ranks in nodes if len(ranks) > local)
            places[rank] = Place(local, peers.index(rank), len(node), host)
    return [places[rank] for rank in sorted(places)]


@given(
    st.permutations(range(6)),
    st.sampled_from([(2, 2, 2), (3, 2, 1), (1, 4, 1), (6,), (1,) * 6]),
)
def test_nodes_are_found_wherever_ranks_are(
    order: list[int], counts: tuple[int, ...]
) -> None:
    taken = iter(order)
    nodes = sorted(sorted(itertools.islice(taken, count)) for count in counts)
    found = nodes_of(places_of(nodes, list(range(len(nodes)))))
    assert found == tuple(map(tuple, nodes))


@pytest.mark.parametrize(
    "nodes",
    [[[0, 1], [2, 3]], [[0, 2], [1, 3]], [[0, 1, 2], [3]], [[0], [1, 2, 3]]],
)
def test_nodes_are_found_where_hosts_share_a_name(nodes: list[list[int]]) -> None:
    assert nodes_of(places_of(nodes, [7] * len(nodes))) == tuple(map(tuple, nodes))


@pytest.mark.parametrize(
    "places",
    [[(0, 0, 2)], [(0, 0, 2), (0, 0, 2)], [(0, 0, 1), (1, 0, 2)], [(1, 0, 1)]],
)
def test_places_that_are_no_nodes_are_refused(
    places: list[tuple[int, int, int]],
) -> None:
    with pytest.raises(UserError, match="describe no nodes"):
        nodes_of([Place(one, two, size, 7) for one, two, size in places])


@pytest.mark.parametrize(
    ("exchange", "hint"),
    [("twoway", "two-way"), ("allreduce", "choices: auto, two-way, allgather")],
)
def test_a_wrong_exchange_is_answered_with_the_nearest(
    exchange: str, hint: str
) -> None:
    with pytest.raises(UserError, match=hint):
        choose_exchange(Compression.sign(), exchange, placed(1, 1, 1, 1))


def test_powersgd_leaves_out_what_its_factors_would_not_shorten() -> None:
    codec = Compression.powersgd(rank=4)
    assert codec.suits((64, 64), "allreduce")
    assert not codec.suits((3, 10_000), "allreduce")
    assert not codec.suits((5, 5), "allreduce")


@given(st.lists(st.integers(-(2**63), 2**63), min_size=1, max_size=4))
def test_seeds_are_63_bits_and_tell_their_parts_apart(parts: list[int]) -> None:
    seed = codec_seed(*parts)
    assert 0 <= seed < 2**63
    assert seed == codec_seed(*parts)
    assert seed != codec_seed(*parts, 0) and seed != codec_seed(
        parts[0] + 1, *parts[1:]
    )
