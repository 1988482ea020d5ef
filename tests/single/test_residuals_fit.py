"""Whether saved residuals fit the exchanges of now is one answer on all ranks."""

from __future__ import annotations

import pytest
import torch

from dathvd.compression import COMPRESSORS, Compressor
from dathvd.distributed.buckets import Bucket, Slot
from dathvd.distributed.coded import TwoWay
from dathvd.distributed.exchanges import BucketExchange
from dathvd.distributed.hierarchical import Hierarchical, NodeWires
from dathvd.distributed.ledger import Ledger
from dathvd.distributed.placement import Placement
from dathvd.distributed.residuals import fit, save_bucket
from dathvd.distributed.wire import Wire

SIZE, VALUES = 3, 1024


def codec(block: int) -> Compressor:
    """int8 in larger blocks, as another codec of the same kind might have them."""
    made = COMPRESSORS["int8"]()
    made.block = block
    return made


def exchange(kind: str, rank: int, block: int) -> BucketExchange:
    """Of a bucket of two blocks of 512 values, on one rank of three."""
    slot = Slot("weight", 0, (VALUES,), (1,))
    bucket = Bucket(0, True, torch.float32, torch.device("cpu"), (slot,))
    wire = Wire(rank, SIZE, Ledger(), "test")
    if kind == "two-way":
        return TwoWay(bucket, wire, 1.0, codec(block))
    nodes = tuple((each,) for each in range(SIZE))
    inside = Wire(0, 1, Ledger(), "test")
    wires = NodeWires(Placement(rank, nodes), inside, wire)
    inner = COMPRESSORS["none"]()
    return Hierarchical(bucket, wire, 1.0, codec(block), inner, wires)


@pytest.mark.parametrize("kind", ["two-way", "hierarchical"])
@pytest.mark.parametrize("block", [512, 1024])
def test_all_ranks_agree_whether_residuals_fit(kind: str, block: int) -> None:
    """Rank 0 owns nothing of so small a bucket, whichever the block: its own part
    alone would tell it that nothing has changed."""
    saved = [save_bucket(exchange(kind, rank, 512)) for rank in range(SIZE)]
    answers = [
        fit([exchange(kind, rank, block)], {"buckets": [saved[rank]]})
        for rank in range(SIZE)
    ]
    assert answers == [block == 512] * SIZE
