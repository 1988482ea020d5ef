"""All buckets of one optimizer: fill them, let them travel, take the means."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from dathvd.compression import Compressor
from dathvd.distributed.buckets import Bucket, Slot
from dathvd.distributed.choice import bucket_exchange
from dathvd.distributed.exchanges import BucketExchange, Steps
from dathvd.distributed.ledger import Ledger
from dathvd.distributed.wire import Pending, Wire
from dathvd.errors import UserError
from dathvd.runtime import AgreedError

_PAUSE = 1e-4  # seconds between looks at collectives; Horovod's own cycle is 1e-3
_WORD = (1 << 64) - 1


@dataclass
class Transfer:
    """One bucket's way through one step."""

    bucket: Bucket
    exchange: BucketExchange
    missing: int
    """Parameters whose gradient has not arrived."""
    steps: Steps | None = None
    pending: Pending | None = None
    finished: bool = False

    def begin(self, steps: Steps) -> None:
        """Encode and submit the first collective; blocks nowhere."""
        self.steps, self.pending = steps, next(steps)

    def advance(self) -> bool:
        """Go on as far as possible without waiting; whether anything moved."""
        moved = False
        while self.steps and self.pending and self.pending.done():
            moved = True
            try:
                self.pending = self.steps.send(self.pending.result())
            except StopIteration:
                self.steps = self.pending = None
                self.finished = True
        return moved

    def reset(self) -> None:
        """Make ready for the next step."""
        self.missing, self.finished = len(self.bucket.slots), False


class Exchanger:
    """The exchanges of a distributed optimizer, as its attribute ``exchanger``.

    A gradient goes into its bucket as backward yields it; a full bucket is encoded and
    submitted at once, and nothing waits before ``synchronize``. An exchange of several
    collectives moves on whenever ``poll`` is called, which every later gradient does
    and which a caller who has other work to do meanwhile (an attack) should do now and
    then. No thread is used: results depend on no timing, and a poll costs microseconds.

    Args:
        parameters: names and parameters that the buckets' slots name.
        buckets: the plan, equal on all ranks.
        compressor: codec of the compressed buckets.
        exchange: ``allreduce``, ``allgather`` or ``two-way``.
        wire: the collectives.
        passes: backward passes per step; gradients are averaged over them.
        seed: of stochastic codecs, equal on all ranks.
        max_skipped_in_a_row: non-finite steps in a row that end the job.
    """

    def __init__(
        self,
        parameters: Sequence[tuple[str, Parameter]],
        buckets: Sequence[Bucket],
        compressor: Compressor,
        exchange: str,
        wire: Wire,
        *,
        passes: int = 1,
        seed: int = 0,
        max_skipped_in_a_row: int = 10,
    ) -> None:
        self.compressor = compressor
        self.exchange = exchange
        self.buckets = tuple(buckets)
        self.step = 0
        """Steps exchanged so far, skipped ones included."""
        self.skipped = 0
        """Steps whose mean gradient was not finite, which changed nothing."""
        self.skipped_in_a_row = 0
        self.last_skipped = False
        """Whether the last step was one of them."""
        self._wire = wire
        self._seed = seed
        self._max_skipped_in_a_row = max_skipped_in_a_row
        self._transfers: list[Transfer] = []
        self._places: dict[Parameter, tuple[Transfer, Slot]] = {}
        by_name = dict(parameters)
        for bucket in buckets:
            coded = bucket_exchange(bucket, compressor, exchange, wire, 1.0 / passes)
            transfer = Transfer(bucket, coded, len(bucket.slots))
            self._transfers.append(transfer)
            for slot in bucket.slots:
                self._places[by_name[slot.name]] = (transfer, slot)

    @property
    def ledger(self) -> Ledger:
        """Bytes and seconds by collective and codec."""
        return self._wire.ledger

    @property
    def in_flight(self) -> bool:
        """Whether a bucket is being filled or exchanged."""
        return any(
            t.steps or t.finished or t.missing < len(t.bucket.slots)
            for t in self._transfers
        )

    def submit(self, parameter: Parameter) -> Callable[[], Tensor]:
        """Take a parameter's gradient; a bucket that it fills starts to travel.

        A parameter without a gradient counts as zeros: another rank may have one.

        Returns:
            What waits for all buckets and returns this parameter's mean gradient.
        """
        transfer, slot = self._places[parameter]
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if parameter.grad.is_sparse:
            raise UserError(
                f"{slot.name}: its gradient is sparse, which no bucket can hold; "
                "build the layer with sparse=False"
            )
        target = slot.view(transfer.exchange.values)
        if target.data_ptr() != parameter.grad.data_ptr():
            target.copy_(parameter.grad)
        transfer.missing -= 1
        if transfer.missing == 0:
            transfer.begin(transfer.exchange.steps(*self._seeds(transfer.bucket)))
        self.poll()
        return lambda: self._mean(parameter)

    def poll(self) -> bool:
        """Move exchanges on without waiting; whether any still travels."""
        for transfer in self._transfers:
            transfer.advance()
        return any(transfer.steps for transfer in self._transfers)

    def finish(self) -> None:
        """Wait for every bucket. All gradients must have been submitted."""
        while True:
            moved = [transfer.advance() for transfer in self._transfers]
            waiting = [t.pending for t in self._transfers if t.pending is not None]
            if not waiting:
                return
            if not any(moved):
                # Horovod's own wait spins, which takes a core from its transport
                began = time.perf_counter()
                time.sleep(_PAUSE)
                waiting[0].entry.waited_seconds += time.perf_counter() - began

    def conclude(self) -> None:
        """Keep the step's residuals, or skip the step where a mean is not finite.

        All ranks hold the same means, hence decide alike without asking each other.

        Raises:
            UserError: too many steps in a row were not finite; raised on all ranks.
        """
        self.last_skipped = not self._finite()
        for transfer in self._transfers:
            if not self.last_skipped:
                transfer.exchange.commit()
            transfer.reset()
        self.step += 1
        self.skipped += self.last_skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if self.last_skipped else 0
        if self.skipped_in_a_row >= self._max_skipped_in_a_row:
            raise AgreedError(
                f"gradients were not finite in {self.skipped_in_a_row} steps in a row; "
                "the loss has diverged: lower optimizer.lr or lengthen the warm-up"
            )

    def _finite(self) -> bool:
        """Whether all means are finite: one host synchronisation."""
        extremes = [
            extreme.double()
            for transfer in self._transfers
            for extreme in transfer.exchange.mean.aminmax()
        ]
        return not extremes or bool(torch.stack(extremes).isfinite().all())

    def _mean(self, parameter: Parameter) -> Tensor:
        transfer, slot = self._places[parameter]
        if not transfer.finished:
            self.finish()
        return slot.view(transfer.exchange.mean).to(parameter.dtype)

    def _seeds(self, bucket: Bucket) -> tuple[int, int]:
        """The worker's and the owner's seed of this bucket in this step.

        Owners share one: with their chunks' offsets they draw as one would for all.
        """
        shared = _mix(self._seed, self.step, bucket.index)
        return _mix(shared, self._wire.rank + 1), shared


def _mix(*parts: int) -> int:
    """A 63-bit hash of integers (SplitMix64's finaliser, chained)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & _WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _WORD
        state ^= state >> 31
    return state >> 1
