"""One bucket's way through one step."""

from __future__ import annotations

import time

from dathvd.distributed.exchanges import BucketExchange, Seeds, Steps
from dathvd.distributed.ledger import Ledger
from dathvd.distributed.wire import Pending


class Transfer:
    """Counts a bucket's gradients, then drives its exchange; never waits.

    Args:
        exchange: how the bucket's gradients become their mean.
        ledger: takes the seconds that encoding and decoding cost.
    """

    def __init__(self, exchange: BucketExchange, ledger: Ledger) -> None:
        self.exchange = exchange
        self.pending: Pending | None = None
        """The collective under way, None before the first and after the last."""
        self.finished = False
        """Whether the exchange's mean is there."""
        self._ledger = ledger
        self._steps: Steps | None = None
        self._missing = len(exchange.bucket.slots)

    @property
    def idle(self) -> bool:
        """Whether the bucket is empty and no exchange of it is under way."""
        complete = self._missing == len(self.exchange.bucket.slots)
        return complete and self.pending is None and not self.finished

    def arrived(self) -> bool:
        """Count one more gradient in; whether the bucket is now full."""
        self._missing -= 1
        return self._missing == 0

    def begin(self, seeds: Seeds, exact: bool) -> None:
        """Encode, unless the mean is to be ``exact``; submit the first collective."""
        began = time.perf_counter()
        exchange = self.exchange
        exchange.known_finite = False
        self._steps = exchange.exact_steps() if exact else exchange.steps(seeds)
        self.pending = next(self._steps)
        self._ledger.codec_seconds += time.perf_counter() - began

    def advance(self) -> bool:
        """Go on as far as possible without waiting; whether anything moved."""
        moved = False
        while self._steps is not None and self.pending and self.pending.done():
            moved = True
            output = self.pending.result()
            began = time.perf_counter()
            try:
                self.pending = self._steps.send(output)
            except StopIteration:
                self._steps = self.pending = None
                self.finished = True
            self._ledger.codec_seconds += time.perf_counter() - began
        return moved

    def conclude(self, keep: bool) -> None:
        """Keep or undo what the step left, and make ready for the next."""
        if keep:
            self.exchange.commit()
        else:
            self.exchange.roll_back()
        self._missing, self.finished = len(self.exchange.bucket.slots), False
