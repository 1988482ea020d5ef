"""The exchange that knows about nodes: plain inside a node, compressed between nodes.

With N ranks on C nodes, the bucket is cut into one shard a local rank, and each shard
into one chunk a node:

1. inside each node, every rank sends each local rank its shard (an alltoall, whose
   parts the receiver adds up: a reduce-scatter in a fixed order of sums, which works
   over MPI, Gloo and NCCL alike; Horovod 0.28.1 has no reduce-scatter over Gloo);
2. each local rank encodes its node's share of the mean, and exchanges its shard two-way
   with its counterparts of the other nodes, with error feedback at both ends;
3. inside each node, the ranks give each other their shards' payloads (an allgather),
   and all decode the same bytes.

What leaves a node is thus what one worker sends among C, not N/C times as much.

Where nodes have different numbers of ranks, the fewest decide on the number of shards;
a node's share counts by its ranks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import horovod.torch as hvd
import torch
from torch import Tensor

from dathvd.compression import Compressor
from dathvd.distributed.buckets import Bucket, chunk_cuts
from dathvd.distributed.exchanges import Cut, FeedbackExchange, Seeds, Steps
from dathvd.distributed.feedback import Feedback
from dathvd.distributed.placement import Placement
from dathvd.distributed.wire import Wire

INSIDE = " inside nodes"
"""What the ledger adds to the codec of payloads that leave no node."""
_sets: dict[tuple[int, ...], hvd.ProcessSet] = {}


@dataclass(frozen=True)
class NodeWires:
    """The collectives of a rank's node, and those of its counterparts."""

    placement: Placement
    inside: Wire
    across: Wire

    @classmethod
    def build(cls, wire: Wire, placement: Placement) -> NodeWires:
        """Form the process sets of all nodes and of all counterparts. A collective."""
        fewest = placement.fewest
        nodes = placement.nodes
        between = [
            tuple(sorted(ranks[place] for ranks in nodes)) for place in range(fewest)
        ]
        for group in (*nodes, *between):
            if len(group) > 1 and group not in _sets:
                _sets[group] = hvd.add_process_set(list(group))
        local = placement.local_rank
        # ranks beyond those that every node has exchange no shard
        others = between[local] if local < fewest else (placement.rank,)
        inside = replace(_among(wire, nodes[placement.node]), label=INSIDE)
        return cls(placement, inside, _among(wire, others))


def _among(wire: Wire, ranks: tuple[int, ...]) -> Wire:
    """The same wire among those ranks alone."""
    return replace(
        wire,
        rank=ranks.index(wire.rank),
        size=len(ranks),
        process_set=_sets.get(ranks, hvd.global_process_set),
    )


class Hierarchical(FeedbackExchange):
    """Reduce-scatter inside nodes, two-way between them, allgather inside nodes.

    Args:
        bucket: the layout.
        wire: the collectives of all ranks.
        scale: factor of the gradients, such as 1 / backward passes per step.
        codec: of what leaves a node.
        inner: of what travels inside a node: a cast.
        nodes: the collectives of the two levels.
    """

    collectives: ClassVar[str] = (
        "reduce-scatter inside nodes, two-way between them, allgather inside"
    )
    feedback_at: ClassVar[str] = "both ends"

    def __init__(
        self,
        bucket: Bucket,
        wire: Wire,
        scale: float,
        codec: Compressor,
        inner: Compressor,
        nodes: NodeWires,
    ) -> None:
        feedback, lossy = codec.error_feedback, inner.name != "none"
        super().__init__(bucket, wire, scale, feedback=feedback and lossy)
        self.codec, self.inner, self.nodes = codec, inner, nodes
        placement = nodes.placement
        count, device = bucket.num_values, bucket.device
        shards = shard_cuts(count, placement, codec.block, inner.block)
        local = placement.local_rank
        self._inside = _sizes(inner, shards)
        self._shard_bytes = _sizes(codec, shards)
        self.shard = start, end = shards[local], shards[local + 1]
        chunks = [start + cut for cut in self._chunks(end - start)]
        self._across = _sizes(codec, chunks, start)
        place = nodes.across.rank
        self.owned = chunks[place], chunks[place + 1]
        self.sender = Feedback(end - start, device, feedback)
        self.owner = Feedback(self.owned[1] - self.owned[0], device, feedback)
        self._plain = _bytes(sum(self._inside), device)
        self._payload = _bytes(sum(self._across), device)
        self._owned_payload = _bytes(self._across[place], device)

    def _chunks(self, length: int) -> list[int]:
        """Where a shard of that length is cut for its counterparts."""
        if length == 0:
            return [0, 0]
        return chunk_cuts(length, self.nodes.across.size, self.codec.block)

    @property
    def node_share(self) -> float:
        """This node's ranks as a multiple of a node's average."""
        placement = self.nodes.placement
        own = len(placement.nodes[placement.node])
        return own * len(placement.nodes) / placement.size

    def ends(self) -> dict[str, Feedback]:
        return {**super().ends(), "sender": self.sender, "owner": self.owner}

    def cut(self) -> Cut:
        nodes = [list(ranks) for ranks in self.nodes.placement.nodes]
        blocks = [self.codec.block, self.inner.block]
        shard = list(self.shard)
        return {**super().cut(), "blocks": blocks, "shard": shard, "nodes": nodes}

    def sent_bytes(self) -> float:
        inside, across = self.nodes.inside, self.nodes.across
        sent = float(sum(self._inside) - self._inside[inside.rank])
        sent += self._shard_bytes[inside.rank] * (inside.size - 1)
        return sent + self.leaving_bytes() if across.size > 1 else sent

    def leaving_bytes(self) -> float:
        across = self.nodes.across
        owned = self._owned_payload.numel()
        return sum(self._across) - owned + owned * (across.size - 1)

    def steps(self, seeds: Seeds) -> Steps:
        codec, inside, across = self.codec, self.nodes.inside, self.nodes.across
        worker, sender, owner = self.worker, self.sender, self.owner
        self.inner.encode(
            worker.values,
            worker.residual,
            self._plain,
            worker.successor,
            seeds.worker,
            self.scale,
        )
        parts = yield inside.alltoall(
            self._plain, self._inside, f"{self.name}.node_scatter", self.inner.name
        )
        payload = self._owned_payload
        if self.shard[1] > self.shard[0]:
            self.inner.decode_mean(parts.view(inside.size, -1), sender.values)
            self._encode(sender, self._payload, seeds.worker, self.shard[0])
            parts = yield across.alltoall(
                self._payload, self._across, f"{self.name}.scatter", codec.name
            )
            if self.owned[1] > self.owned[0]:
                codec.decode_mean(parts.view(across.size, -1), owner.values)
                self._encode(owner, self._owned_payload, seeds.owner, self.owned[0])
            payload = yield across.allgather(
                self._owned_payload, f"{self.name}.gather", codec.name
            )
        whole = yield inside.allgather(payload, f"{self.name}.node_gather", codec.name)
        self.decode_result(whole, codec)

    def _encode(self, end: Feedback, payload: Tensor, seed: int, offset: int) -> None:
        """Encode one end's values, a sender's by the share of its node."""
        scale = self.node_share if end is self.sender else 1.0
        self.codec.encode(
            end.values, end.residual, payload, end.successor, seed, scale, offset
        )


class WithinNode(FeedbackExchange):
    """All ranks are on one node: an allreduce, uncompressed.

    What was owed by a run on several nodes is paid in the first step.
    """

    collectives: ClassVar[str] = "one allreduce, uncompressed: all ranks are on 1 node"
    feedback_at: ClassVar[str] = "no end, as nothing is lost"

    def __init__(
        self, bucket: Bucket, wire: Wire, scale: float, codec: Compressor
    ) -> None:
        super().__init__(bucket, wire, scale, feedback=codec.error_feedback)

    def sent_bytes(self) -> float:
        return 8 * self.bucket.num_values * (self.wire.size - 1) / self.wire.size

    def leaving_bytes(self) -> float:
        return 0.0

    def steps(self, seeds: Seeds) -> Steps:
        values = self.values.mul_(self.scale)
        if self.worker.residual is not None:
            values.add_(self.worker.residual)
        yield self.wire.allreduce(values, self.name, "none" + INSIDE, hvd.Average)
        if self._mean is not None:
            self._mean.copy_(values)
        self.worker.settle()


def shard_cuts(
    count: int, placement: Placement, block: int, inner_block: int
) -> list[int]:
    """Where a bucket is cut for the ranks of this node, whole blocks to a rank.

    The ranks of a node beyond those that every node has own nothing.
    """
    cuts = chunk_cuts(count, placement.fewest, math.lcm(block, inner_block))
    extra = len(placement.nodes[placement.node]) - placement.fewest
    return cuts + [count] * extra


def _sizes(codec: Compressor, cuts: Sequence[int], start: int = 0) -> list[int]:
    """Bytes of the payload between each two cuts, of a vector that begins at start."""
    ends = [codec.payload_bytes(cut - start) for cut in cuts]
    return [high - low for low, high in itertools.pairwise(ends)]


def _bytes(count: int, device: torch.device) -> Tensor:
    return torch.empty(count, dtype=torch.uint8, device=device)
