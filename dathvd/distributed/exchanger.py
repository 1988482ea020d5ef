"""All buckets of one optimizer: fill them, let them travel, take the means."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from dathvd.distributed import residuals
from dathvd.distributed.bucket_transfer import Transfer
from dathvd.distributed.buckets import Slot
from dathvd.distributed.exchanges import BucketExchange, Seeds
from dathvd.distributed.ledger import Ledger
from dathvd.distributed.provisional import Verdict
from dathvd.distributed.wire import Wire
from dathvd.errors import UserError
from dathvd.noise import codec_seed
from dathvd.runtime import AgreedError

_PAUSE = 1e-4  # seconds between looks at collectives; Horovod's own cycle is 1e-3


class Exchanger:
    """The exchanges of a distributed optimizer, as its attribute ``exchanger``.

    A gradient goes into its bucket as backward yields it, copied or lent, and must not
    change before ``synchronize``; a full bucket is encoded and submitted at once, and
    nothing waits before ``synchronize``. An exchange of several
    collectives moves on whenever ``poll`` is called, which every later gradient does
    and which a caller who has other work to do meanwhile (an attack) should do now and
    then. There is no thread: nothing depends on timing, no lock is needed, the codecs
    do not compete with the attack for cores, and a poll costs microseconds.

    Args:
        parameters: names, as in the buckets' slots, and parameters.
        exchanges: one for each bucket, in the same order on all ranks.
        wire: the collectives that the exchanges submit.
        seed: the seed of stochastic codecs, equal on all ranks.
        max_skipped_in_a_row: non-finite steps in a row that end the job.
        warmup_steps: steps at the start that compress nothing.
        description: what ``describe`` says of codec and exchange.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, Parameter]],
        exchanges: Sequence[BucketExchange],
        wire: Wire,
        *,
        seed: int,
        max_skipped_in_a_row: int,
        warmup_steps: int,
        description: str,
    ) -> None:
        self.step = 0
        """Steps exchanged so far, skipped ones included."""
        self.warmup_steps = warmup_steps
        """Steps at the start whose gradients travel uncompressed."""
        self.skipped = 0
        """Steps whose mean gradient was not finite, which changed nothing."""
        self.skipped_in_a_row = 0
        self.last_skipped = False
        """Whether the last step was one of them."""
        self._wire = wire
        self._seed = seed
        self._max_skipped_in_a_row = max_skipped_in_a_row
        self._description = description
        self._transfers = [Transfer(each, wire.ledger) for each in exchanges]
        by_name = dict(parameters)
        self._places: dict[Parameter, tuple[Transfer, Slot]] = {
            by_name[slot.name]: (transfer, slot)
            for transfer in self._transfers
            for slot in transfer.exchange.bucket.slots
        }

    @property
    def ledger(self) -> Ledger:
        """Bytes and seconds by collective and codec."""
        return self._wire.ledger

    @property
    def exchanges(self) -> list[BucketExchange]:
        """The buckets' exchanges, in the order in which backward fills them."""
        return [transfer.exchange for transfer in self._transfers]

    @property
    def device(self) -> torch.device:
        """Where the means are; the CPU if there is nothing to exchange."""
        exchanges = self.exchanges
        return exchanges[0].mean.device if exchanges else torch.device("cpu")

    @property
    def in_flight(self) -> bool:
        """Whether gradients have been submitted that no ``step`` has taken yet."""
        return not all(transfer.idle for transfer in self._transfers)

    def describe(self) -> str:
        """One line: codec, exchange, buckets, bytes sent by this worker and step."""
        return self._description

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
        transfer.exchange.put(slot, parameter.grad)
        if transfer.arrived():
            exact = self.step < self.warmup_steps
            transfer.begin(self._seeds(transfer), exact)
        self.poll()
        return lambda: self._mean(parameter)

    def poll(self) -> bool:
        """Move exchanges on without waiting; whether any still travels."""
        for transfer in self._transfers:
            transfer.advance()
        return any(transfer.pending for transfer in self._transfers)

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

    def finite(self) -> Verdict:
        """Whether all means are finite, as the host will be told; waits for nothing.

        All ranks hold the same means, hence decide alike without asking each other.
        On a CPU the payloads and the sums are asked first, which takes less time: a sum
        that is finite has finite terms, and one that is not may have overflowed.
        """
        if self.device.type == "cpu" and all(
            each.known_finite or math.isfinite(each.mean.sum().item())
            for each in self.exchanges
        ):
            return Verdict(torch.tensor(True))
        extremes = [
            extreme.double()
            for transfer in self._transfers
            for extreme in transfer.exchange.mean.aminmax()
        ]
        every = torch.stack(extremes) if extremes else torch.zeros(0)
        return Verdict(every.isfinite().all())

    def conclude(self, finite: bool) -> None:
        """Keep the step's residuals, or roll them back where the step is skipped.

        Args:
            finite: what ``finite`` said.

        Raises:
            UserError: too many steps in a row were not finite; raised on all ranks.
        """
        self.last_skipped = not finite
        for transfer in self._transfers:
            transfer.conclude(keep=not self.last_skipped)
        self.step += 1
        self.skipped += self.last_skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if self.last_skipped else 0
        if self.skipped_in_a_row >= self._max_skipped_in_a_row:
            raise AgreedError(
                f"gradients were not finite in {self.skipped_in_a_row} steps in a row; "
                "training has diverged: lower the learning rate or lengthen its warm-up"
            )

    def state_dict(self) -> residuals.State:
        """This rank's residuals and counters, for ``torch.load(weights_only=True)``.

        Raises:
            RuntimeError: an exchange is in flight; save after ``step``.
        """
        self._check_idle()
        return {
            "rank": self._wire.rank,
            "size": self._wire.size,
            "step": self.step,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "buckets": [residuals.save_bucket(each) for each in self.exchanges],
        }

    def fits(self, state: residuals.State) -> bool:
        """Whether this rank's saved state alone restores its residuals exactly.

        It does where it is of as many workers, placed on nodes alike, with the same
        buckets. All ranks get the same answer.
        """
        same = (state["rank"], state["size"]) == (self._wire.rank, self._wire.size)
        return same and residuals.fit(self.exchanges, state)

    def load_state_dict(self, states: Sequence[residuals.State]) -> None:
        """Go on where the old workers stopped.

        With as many workers, the same buckets and, under the hierarchical exchange, the
        same placement as before, each takes its own state and the run goes on exactly.
        Otherwise what is owed is shared out anew, see
        ``dathvd.distributed.residuals``.

        Args:
            states: the ``state_dict()`` of every old rank, by rank; where ``fits`` says
                so, the state of this rank alone will do.

        Raises:
            UserError: states are missing, or hold what this codec cannot keep.
            RuntimeError: an exchange is in flight.
        """
        self._check_idle()
        residuals.load(self.exchanges, states, self._wire.rank, self._wire.size)
        self.step = int(states[0]["step"])
        self.skipped = int(states[0]["skipped"])
        self.skipped_in_a_row = int(states[0]["skipped_in_a_row"])

    def _check_idle(self) -> None:
        if self.in_flight:
            raise RuntimeError("an exchange is in flight: call step() first")

    def _mean(self, parameter: Parameter) -> Tensor:
        transfer, slot = self._places[parameter]
        if not transfer.finished:
            self.finish()
        return slot.view(transfer.exchange.mean).to(parameter.dtype)

    def _seeds(self, transfer: Transfer) -> Seeds:
        """The seeds of a bucket in this step.

        Owners share one: with their chunks' offsets they draw as one would for all.
        """
        owner = codec_seed(self._seed, self.step, transfer.exchange.bucket.index)
        return Seeds(worker=codec_seed(owner, self._wire.rank + 1), owner=owner)
