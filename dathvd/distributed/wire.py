"""Horovod's collectives, asynchronous and entered in the ledger.

With one worker nothing is sent: a collective is complete at once with its own input.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import horovod.torch as hvd
import torch
from torch import Tensor

from dathvd.distributed.ledger import Entry, Ledger


@dataclass
class Pending:
    """A collective under way."""

    handle: int | None
    """Horovod's handle; None where nothing had to be sent."""
    output: Tensor
    entry: Entry
    submitted: float

    def done(self) -> bool:
        """Whether ``result`` would return at once."""
        return self.handle is None or bool(hvd.poll(self.handle))

    def result(self) -> Tensor:
        """The collective's output.

        Raises:
            horovod.common.exceptions.HorovodInternalError: the collective failed, such
                as when another worker has gone.
        """
        if self.handle is None:
            return self.output
        output = hvd.synchronize(self.handle)
        self.entry.in_flight_seconds += time.perf_counter() - self.submitted
        # an alltoall also returns how much came from each rank, which all know
        received: Tensor = output[0] if isinstance(output, tuple) else output
        return received


@dataclass(frozen=True)
class Wire:
    """The collectives of one distributed optimizer.

    Args:
        rank: this worker's, from 0.
        size: the number of workers.
        ledger: where traffic is entered.
        prefix: what all names start with; names must be unique among the tensors in
            flight, and stable from step to step, which Horovod's cache rewards.
        process_set: the workers among which rank and size are counted.
        label: what the ledger adds to the codec's name.
    """

    rank: int
    size: int
    ledger: Ledger
    prefix: str
    process_set: hvd.ProcessSet = hvd.global_process_set
    label: str = ""

    def allreduce(
        self, tensor: Tensor, name: str, codec: str, op: int, scale: float = 1.0
    ) -> Pending:
        """Sum or average over the workers of ``tensor`` times ``scale``, in place."""
        handle = None
        if self.size > 1:
            handle = hvd.allreduce_async_(
                tensor,
                name=self._name(name),
                op=op,
                prescale_factor=scale,
                process_set=self.process_set,
            )
        elif scale != 1.0:
            tensor.mul_(scale)
        factor = 2 * (self.size - 1) / self.size
        return self._submitted(handle, tensor, "allreduce", codec, factor)

    def allgather(self, tensor: Tensor, name: str, codec: str) -> Pending:
        """The workers' tensors, one after the other; their lengths may differ."""
        handle = None
        if self.size > 1:
            handle = hvd.allgather_async(
                tensor, name=self._name(name), process_set=self.process_set
            )
        return self._submitted(handle, tensor, "allgather", codec, self.size - 1)

    def alltoall(
        self, tensor: Tensor, splits: Sequence[int], name: str, codec: str
    ) -> Pending:
        """Send part r of ``tensor`` to rank r; the parts received, by rank.

        Args:
            tensor: one-dimensional.
            splits: length of each part, in values.
        """
        handle = None
        if self.size > 1:
            lengths = torch.tensor(splits, dtype=torch.int32)
            handle = hvd.alltoall_async(
                tensor, lengths, name=self._name(name), process_set=self.process_set
            )
        factor = 1 - splits[self.rank] / max(1, sum(splits))
        return self._submitted(handle, tensor, "alltoall", codec, factor)

    def _name(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    def _submitted(
        self,
        handle: int | None,
        tensor: Tensor,
        collective: str,
        codec: str,
        factor: float,
    ) -> Pending:
        entry = self.ledger.entry(collective, codec + self.label)
        handed = tensor.numel() * tensor.element_size()
        entry.calls += 1
        entry.handed_bytes += handed
        entry.sent_bytes += handed * factor
        return Pending(handle, tensor, entry, time.perf_counter())
