"""Laws of what is handed to Horovod, and of what is said of it.

One function a law; every rank runs it, see ``exchange_worker.py``.
"""

from __future__ import annotations

import horovod.torch as hvd

from tests.parallel.exchange_rig import (
    CODECS,
    COMPRESSED,
    LARGE,
    SHAPES,
    SIZES,
    SMALL,
    Toy,
    distributed,
    pairs,
    run,
    spying,
)
from tests.parallel.laws import ALONE_AND_TWO, EXCHANGE_LAWS, FEW


def payload(codec: str) -> int:
    """Closed formulas of what one worker's compressed tensors become, in bytes."""
    blocks = -(-LARGE // 512)
    span = CODECS["topk"]().block
    whole, rest = divmod(LARGE, span)
    kept = [round(0.05 * span)] * whole + [round(0.05 * rest)]
    return {
        "none": 4 * LARGE,
        "fp16": 2 * LARGE,
        "bf16": 2 * LARGE,
        "sign": blocks * (4 + 512 // 8),
        "int8": blocks * (4 + 512),
        "int4": blocks * (4 + 256),
        "topk": sum(4 * k + 4 * -(-k // 2) for k in kept),
        "paper": sum(4 + SIZES[name] + -SIZES[name] % 4 for name in COMPRESSED),
        "powersgd": 4
        * 2
        * sum(SHAPES[name][0] + SIZES[name] // SHAPES[name][0] for name in COMPRESSED),
    }[codec]


@EXCHANGE_LAWS.on(*FEW, "mpi-4", "mpi-5")
def bytes_equal_the_closed_formulas() -> None:
    size = hvd.size()
    share = (size - 1) / size
    for name, codec, exchange in pairs(CODECS):
        toy = Toy()
        optimizer = distributed(toy, codec, exchange)
        with spying() as handed:
            run(toy, optimizer, range(1))
        ledger = optimizer.exchanger.ledger
        entries = ledger.entries.values()
        if size > 1:
            assert sum(handed) == sum(entry.handed_bytes for entry in entries), name
            assert len(handed) == sum(entry.calls for entry in entries), name
        factor = {
            "allreduce": 2 * share,
            "allgather": size - 1,
            "two-way": 2 * share,
        }[exchange]
        everyone = hvd.allgather_object(ledger.sent_bytes)
        expected = payload(name) * factor + 4 * SMALL * 2 * share
        assert abs(sum(everyone) / size - expected) < 1e-6, (name, exchange, expected)
        predicted = sum(e.sent_bytes() for e in optimizer.exchanger.exchanges)
        assert abs(predicted - ledger.sent_bytes) < 1e-6, (name, exchange)


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
def the_description_tells_what_travels() -> None:
    text = distributed(Toy(), CODECS["sign"](), "two-way").exchanger.describe()
    assert text.startswith("sign by two-way (alltoall, mean, allgather), "), text
    assert "error feedback at both ends" in text
    assert f"{LARGE:,} values in 1 bucket compressed" in text
    assert f"{SMALL:,} values in 1 bucket not" in text
    sent = "MB sent a worker and step (float32 ring allreduce: "
    assert (sent in text) == (hvd.size() > 1)
    assert ("1 worker, nothing is sent" in text) == (hvd.size() == 1)
