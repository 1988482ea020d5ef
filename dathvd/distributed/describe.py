"""What will travel, in words."""

from __future__ import annotations

from collections.abc import Sequence

from dathvd.compression import Compressor
from dathvd.distributed.exchange_choice import Choice
from dathvd.distributed.exchanges import BucketExchange, PlainAllreduce


def describe(
    compressor: Compressor,
    choice: Choice,
    exchanges: Sequence[BucketExchange],
    size: int,
) -> str:
    """One line: codec, exchange, error feedback, buckets, bytes sent, compared."""
    coded = [each for each in exchanges if each.bucket.compressed]
    plain = [each for each in exchanges if not each.bucket.compressed]
    sent = sum(each.sent_bytes() for each in exchanges)
    ring = 8 * (size - 1) / size * sum(each.bucket.num_values for each in exchanges)
    workers = "1 worker, nothing is sent" if size == 1 else f"{size} workers"
    how = next(iter(coded or plain), PlainAllreduce)
    parts = [
        f"{compressor.name} by {choice.name} ({how.collectives}), {workers}",
        choice.reason,
        f"error feedback at {how.feedback_at}" if compressor.error_feedback else "",
        f"{_count(coded)} compressed, {_count(plain)} not",
    ]
    if size > 1:
        parts.append(
            f"{sent / 1e6:.2f} MB sent a worker and step "
            f"(float32 ring allreduce: {ring / 1e6:.2f} MB)"
        )
    leaving = [each.leaving_bytes() for each in coded]
    if any(one is not None for one in leaving):
        total = sum(one or 0.0 for one in leaving)
        parts.append(f"{total / 1e6:.2f} MB of the compressed leave the node")
    return "; ".join(part for part in parts if part)


def _count(exchanges: Sequence[BucketExchange]) -> str:
    values = sum(each.bucket.num_values for each in exchanges)
    noun = "bucket" if len(exchanges) == 1 else "buckets"
    return f"{values:,} values in {len(exchanges)} {noun}"
