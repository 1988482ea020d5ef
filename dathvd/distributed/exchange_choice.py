"""Which exchange carries a codec."""

from __future__ import annotations

from dathvd.compression import Compressor, FactorCompressor
from dathvd.distributed.buckets import Bucket
from dathvd.distributed.exchanges import (
    Allgather,
    BucketExchange,
    CodedExchange,
    LinearAllreduce,
    PlainAllreduce,
    TwoWay,
)
from dathvd.distributed.low_rank import LowRank
from dathvd.distributed.wire import Wire
from dathvd.errors import UserError, nearest
from dathvd.noise import codec_seed

EXCHANGES: dict[str, type[CodedExchange]] = {
    "allreduce": LinearAllreduce,
    "allgather": Allgather,
    "two-way": TwoWay,
}


def choose_exchange(compressor: Compressor, exchange: str, size: int) -> str:
    """The exchange's name; ``auto`` becomes the cheapest that the codec has.

    A codec that can be summed is allreduced. Of the others, an allgather sends N−1
    payloads and the two-way exchange 2(N−1)/N: with one or two workers the allgather
    sends no more, needs one collective instead of two and compresses once.

    Raises:
        UserError: unknown, or not one of the codec's exchanges.
    """
    possible = compressor.exchanges
    if exchange == "auto":
        few = ("allreduce", "allgather", "two-way")
        many = ("allreduce", "two-way", "allgather")
        order = few if size <= 2 else many
        return next(name for name in order if name in possible)
    if exchange not in EXCHANGES:
        raise UserError(
            f"compression.exchange: unknown {exchange!r} "
            f"{nearest(exchange, ['auto', *EXCHANGES])}"
        )
    if exchange not in possible:
        raise UserError(
            f"compression.exchange: {compressor.name} cannot be carried by "
            f"{exchange} (choices: auto, {', '.join(possible)})"
        )
    return exchange


def carrier(compressor: Compressor, exchange: str) -> type[BucketExchange]:
    """The class of the exchange of that name which carries the codec."""
    return LowRank if isinstance(compressor, FactorCompressor) else EXCHANGES[exchange]


def bucket_exchange(
    bucket: Bucket,
    compressor: Compressor,
    exchange: str,
    wire: Wire,
    scale: float,
    seed: int,
) -> BucketExchange:
    """The buffers and collectives of one bucket; ``scale`` multiplies gradients."""
    if not bucket.compressed:
        return PlainAllreduce(bucket, wire, scale)
    if isinstance(compressor, FactorCompressor):
        return LowRank(bucket, wire, scale, compressor, codec_seed(seed, bucket.index))
    return EXCHANGES[exchange](bucket, wire, scale, compressor)
