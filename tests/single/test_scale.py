"""The arithmetic of a large cluster, held against the exchanges' own buffers.

Buckets are on the meta device, which holds no values: 1,024 workers cost nothing.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dathvd.benchmark.speedup.scale import (
    Cluster,
    exchange_seconds,
    plot_scale,
    residual_bytes,
    to_table,
    traffic,
)
from dathvd.compression import COMPRESSORS
from dathvd.distributed.buckets import Bucket, Slot
from dathvd.distributed.coded import TwoWay
from dathvd.distributed.exchanges import BucketExchange
from dathvd.distributed.hierarchical import Hierarchical, NodeWires
from dathvd.distributed.ledger import Ledger
from dathvd.distributed.placement import Placement
from dathvd.distributed.wire import Wire

VALUES = 1024 * 16384  # whole blocks of every codec to each of 1,024 workers
SHAPES = [(16, 4), (64, 8), (1024, 8), (64, 1)]


def bucket() -> Bucket:
    slot = Slot("weight", 0, (VALUES,), (1,))
    return Bucket(0, True, torch.float32, torch.device("meta"), (slot,))


def exchanges(name: str, exchange: str, cluster: Cluster) -> list[BucketExchange]:
    """Those of the first node's workers."""
    size, local, codec = cluster.workers, cluster.per_node, COMPRESSORS[name]()
    ranks = range(size)
    nodes = tuple(tuple(ranks[n : n + local]) for n in range(0, size, local))
    built: list[BucketExchange] = []
    for rank in nodes[0]:
        wire = Wire(rank, size, Ledger(), "test")
        if exchange == "two-way":
            built.append(TwoWay(bucket(), wire, 1.0, codec))
            continue
        inside = Wire(rank, local, Ledger(), "test")
        across = Wire(0, cluster.nodes, Ledger(), "test")
        wires = NodeWires(Placement(rank, nodes), inside, across)
        inner = COMPRESSORS["none"]()
        built.append(Hierarchical(bucket(), wire, 1.0, codec, inner, wires))
    return built


@pytest.mark.parametrize(("size", "local"), SHAPES[:3])
@pytest.mark.parametrize("codec", ["int8", "sign", "topk"])
def test_bytes_that_leave_a_node(codec: str, size: int, local: int) -> None:
    cluster = Cluster(size, local, 1e9)
    both = {
        way: traffic(codec, way, VALUES, cluster) for way in ("two-way", "hierarchical")
    }
    leaving = sum(
        e.leaving_bytes() or 0 for e in exchanges(codec, "hierarchical", cluster)
    )
    assert leaving == pytest.approx(both["hierarchical"].leaving, rel=1e-9)
    sent = sum(each.sent_bytes() for each in exchanges(codec, "two-way", cluster))
    others = (size - local) / (size - 1)  # of those that a worker sends to
    assert sent * others == pytest.approx(both["two-way"].leaving, rel=1e-9)
    ratio = both["two-way"].leaving / both["hierarchical"].leaving
    assert ratio == pytest.approx(local)


@pytest.mark.parametrize(("size", "local"), SHAPES[:3])
@pytest.mark.parametrize("exchange", ["two-way", "hierarchical"])
def test_residuals_of_a_worker(exchange: str, size: int, local: int) -> None:
    cluster = Cluster(size, local, 1e9)
    for each in exchanges("sign", exchange, cluster):
        ends = [end.residual for end in each.ends().values()]
        kept = sum(4 * one.numel() for one in ends if one is not None)
        assert kept == residual_bytes(exchange, VALUES, cluster)


def test_seconds_are_messages_and_bytes() -> None:
    """Without latency a ring takes its bytes' time; without bytes, its messages'."""
    slow = Cluster(64, 8, 1e6, latency=0.0)
    assert exchange_seconds("none", "allreduce", VALUES, slow) == pytest.approx(
        2 * 4 * VALUES * 63 / 64 / 1e6
    )
    late = Cluster(64, 8, 1e30, 1e-3, inside_bandwidth=1e30, inside_latency=0.0)
    buckets = round(4 * VALUES / 25e6)
    for exchange, messages in (("two-way", 126), ("hierarchical", 14)):
        seconds = exchange_seconds("sign", exchange, VALUES, late)
        assert seconds == pytest.approx(buckets * messages * 1e-3)


def test_the_page_tells_what_the_table_tells() -> None:
    page = Path(__file__).parents[2] / "docs" / "scale.md"
    assert to_table(1024, 8, (1, 10, 100, 400)) in page.read_text("utf-8")


@pytest.mark.slow
def test_a_picture_is_drawn(tmp_path: Path) -> None:
    plot_scale(64, 8, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")
