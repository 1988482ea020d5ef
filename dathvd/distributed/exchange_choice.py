"""Which exchange carries a codec."""

from __future__ import annotations

from dataclasses import dataclass

from dathvd.compression import COMPRESSORS, Compressor, FactorCompressor
from dathvd.compression.base import HIERARCHICAL, exchanges_of
from dathvd.distributed.buckets import Bucket
from dathvd.distributed.coded import (
    Allgather,
    CodedExchange,
    LinearAllreduce,
    TwoWay,
)
from dathvd.distributed.exchanges import BucketExchange, PlainAllreduce
from dathvd.distributed.hierarchical import Hierarchical, NodeWires, WithinNode
from dathvd.distributed.low_rank import LowRank
from dathvd.distributed.placement import Placement, can_form_sets
from dathvd.distributed.wire import Wire
from dathvd.errors import UserError, nearest
from dathvd.noise import codec_seed
from dathvd.runtime import PROCESS_SETS

EXCHANGES: dict[str, type[CodedExchange]] = {
    "allreduce": LinearAllreduce,
    "allgather": Allgather,
    "two-way": TwoWay,
}
INSIDE_NODES = {"fp32": "none", "bf16": "bf16"}
"""The codec of what travels inside a node, by the word of a configuration."""
_SETS_ARE_OFF = (
    f"ranks cannot form process sets: set {PROCESS_SETS}=1 before hvd.init()"
)


@dataclass(frozen=True)
class Choice:
    """An exchange's name and why it was taken, if there is anything to say."""

    name: str
    reason: str = ""


def choose_exchange(
    compressor: Compressor, exchange: str, placement: Placement
) -> Choice:
    """The exchange; ``auto`` becomes the cheapest that the codec has.

    A codec that can be summed is allreduced. Of the others, an allgather sends N−1
    payloads and the two-way exchange 2(N−1)/N: with one or two workers the allgather
    sends no more, needs one collective instead of two and compresses once. Where nodes
    have several workers, the hierarchical exchange sends from each node what the
    two-way one sends from each worker. On one node ``auto`` keeps to the codec, so
    that a run there shows what the codec does.

    Raises:
        UserError: unknown, or not one of the codec's exchanges.
    """
    possible = exchanges_of(compressor)
    if exchange == "auto":
        return _cheapest(possible, placement)
    if exchange not in (*EXCHANGES, HIERARCHICAL):
        raise UserError(
            f"compression.exchange: unknown {exchange!r} "
            f"{nearest(exchange, ['auto', *EXCHANGES, HIERARCHICAL])}"
        )
    if exchange not in possible:
        raise UserError(
            f"compression.exchange: {compressor.name} cannot be carried by "
            f"{exchange} (choices: auto, {', '.join(possible)})"
        )
    if exchange == HIERARCHICAL and not placement.is_shared:
        return Choice("two-way", f"hierarchical with {placement.describe()} each")
    if exchange == HIERARCHICAL and len(placement.nodes) > 1 and not can_form_sets():
        raise UserError(f"compression.exchange: {_SETS_ARE_OFF}")
    return Choice(exchange)


def _cheapest(possible: tuple[str, ...], placement: Placement) -> Choice:
    several = placement.is_shared and len(placement.nodes) > 1
    if several and HIERARCHICAL in possible and "allreduce" not in possible:
        if can_form_sets():
            return Choice(HIERARCHICAL, f"auto: {placement.describe()}")
        return Choice("two-way", f"auto: {placement.describe()}, but {_SETS_ARE_OFF}")
    few = ("allreduce", "allgather", "two-way")
    many = ("allreduce", "two-way", "allgather")
    order = few if placement.size <= 2 else many
    chosen = next(name for name in order if name in possible)
    if placement.size == 1:
        return Choice(chosen)
    return Choice(chosen, f"auto: {_why(chosen, placement)}")


def _why(chosen: str, placement: Placement) -> str:
    if chosen == "allreduce":
        return "its payloads can be summed"
    return placement.describe()


@dataclass(frozen=True)
class Carriage:
    """All that decides how buckets travel, but for the buckets.

    Args:
        compressor: of the compressed buckets.
        exchange: an exchange's name, as ``choose_exchange`` gives it.
        wire: the collectives of all ranks.
        scale: what gradients are multiplied by.
        seed: of codecs that begin at random, equal on all ranks.
        placement: of the ranks on nodes.
        inside_nodes: ``fp32`` or ``bf16``, for the hierarchical exchange.
    """

    compressor: Compressor
    exchange: str
    wire: Wire
    scale: float
    seed: int
    placement: Placement
    inside_nodes: str = "fp32"

    def of(self, buckets: tuple[Bucket, ...]) -> list[BucketExchange]:
        """The buffers and collectives of each bucket. A collective."""
        nodes = None
        if self.exchange == HIERARCHICAL and len(self.placement.nodes) > 1:
            nodes = NodeWires.build(self.wire, self.placement)
        return [self._one(bucket, nodes) for bucket in buckets]

    def _one(self, bucket: Bucket, nodes: NodeWires | None) -> BucketExchange:
        codec, wire, scale = self.compressor, self.wire, self.scale
        if not bucket.compressed:
            return PlainAllreduce(bucket, wire, scale)
        if isinstance(codec, FactorCompressor):
            seed = codec_seed(self.seed, bucket.index)
            return LowRank(bucket, wire, scale, codec, seed)
        if nodes is not None:
            inner = COMPRESSORS[INSIDE_NODES[self.inside_nodes]]()
            return Hierarchical(bucket, wire, scale, codec, inner, nodes)
        if self.exchange == HIERARCHICAL:
            return WithinNode(bucket, wire, scale, codec)
        return EXCHANGES[self.exchange](bucket, wire, scale, codec)
