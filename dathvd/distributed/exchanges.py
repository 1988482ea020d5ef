"""How one bucket's gradients become their mean over the workers.

An exchange is written as a generator that yields each collective it has submitted and
is resumed with that collective's output: the code reads as the algorithm, and whoever
drives it (a backward hook, a poll, ``synchronize``) decides when to wait.

Error feedback conserves: at either end, decoded + new residual = gradient + residual.
Summed over steps, what was applied, the mean of the workers' residuals and the owners'
residuals together are the sum of the true mean gradients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass

import horovod.torch as hvd
import torch
from torch import Tensor

from dathvd.compression import Compressor
from dathvd.distributed.wire import Pending, Wire

Steps = Generator[Pending, Tensor, None]


class Feedback:
    """One end's residual, and the buffer that holds values, then the next residual.

    The residual in use stays as it was until ``commit``: a step that is given up leaves
    no trace.

    Args:
        num_values: length of both.
        device: of both.
        enabled: without error feedback there is no residual.
    """

    def __init__(self, num_values: int, device: torch.device, enabled: bool) -> None:
        self.values = torch.zeros(num_values, device=device)
        self.residual = torch.zeros_like(self.values) if enabled else None

    @property
    def successor(self) -> Tensor | None:
        """Where ``encode`` writes the next residual: over the values it has read."""
        return None if self.residual is None else self.values

    def commit(self) -> None:
        """Put the next residual into use."""
        if self.residual is not None:
            self.values, self.residual = self.residual, self.values


@dataclass(frozen=True)
class Place:
    """What an exchange knows of its bucket."""

    name: str
    num_values: int
    dtype: torch.dtype
    device: torch.device
    scale: float
    """Factor of the gradients, such as 1 / backward passes per step."""


class BucketExchange(ABC):
    """One bucket's buffers and the way they are averaged."""

    def __init__(self, place: Place, wire: Wire) -> None:
        self.place = place
        self.wire = wire

    @property
    @abstractmethod
    def values(self) -> Tensor:
        """Where this step's gradients are put; flat."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """The mean over the workers once ``steps`` has ended; flat."""

    @abstractmethod
    def steps(self, worker_seed: int, owner_seed: int) -> Steps:
        """Exchange ``values``; seeds are those of the two ends' stochastic codecs."""

    def ends(self) -> dict[str, Feedback]:
        """The ends that keep a residual: ``worker``, ``owner``."""
        return {}

    def commit(self) -> None:
        """Make the step's residuals the ones in use."""
        for end in self.ends().values():
            end.commit()


class PlainAllreduce(BucketExchange):
    """Horovod's own allreduce, in place, in the bucket's own type."""

    def __init__(self, place: Place, wire: Wire) -> None:
        super().__init__(place, wire)
        self._flat = torch.zeros(
            place.num_values, dtype=place.dtype, device=place.device
        )

    @property
    def values(self) -> Tensor:
        return self._flat

    @property
    def mean(self) -> Tensor:
        return self._flat

    def steps(self, worker_seed: int, owner_seed: int) -> Steps:
        yield self.wire.allreduce(
            self._flat, self.place.name, "none", hvd.Average, self.place.scale
        )


class CodedExchange(BucketExchange):
    """What the exchanges of payloads share: the worker's end."""

    def __init__(self, place: Place, wire: Wire, codec: Compressor) -> None:
        super().__init__(place, wire)
        self.codec = codec
        size, device = place.num_values, place.device
        self.worker = Feedback(size, device, codec.error_feedback)
        self.payload = torch.empty(
            codec.payload_bytes(size), dtype=torch.uint8, device=device
        )
        # the values' buffer takes the next residual; without one it is free again
        self._mean = torch.zeros(size, device=device) if codec.error_feedback else None

    @property
    def values(self) -> Tensor:
        return self.worker.values

    @property
    def mean(self) -> Tensor:
        return self.worker.values if self._mean is None else self._mean

    def ends(self) -> dict[str, Feedback]:
        return {"worker": self.worker}

    def encode_values(self, seed: int) -> None:
        """Turn ``values`` into ``payload`` and the worker's next residual."""
        worker = self.worker
        self.codec.encode(
            worker.values,
            worker.residual,
            self.payload,
            worker.successor,
            seed,
            self.place.scale,
        )


class LinearAllreduce(CodedExchange):
    """Allreduce of values in a shorter float format, summed in that format."""

    def steps(self, worker_seed: int, owner_seed: int) -> Steps:
        self.encode_values(worker_seed)
        short = self.payload.view(linear_dtype(self.codec))
        total = yield self.wire.allreduce(
            short, self.place.name, self.codec.name, hvd.Sum
        )
        # divided in float32: in the short format small means would be rounded to zero
        self.mean.copy_(total[: self.place.num_values])
        if self.wire.size > 1:
            self.mean.mul_(1.0 / self.wire.size)


class Allgather(CodedExchange):
    """Everyone receives everyone's payload; bytes grow with the workers."""

    def steps(self, worker_seed: int, owner_seed: int) -> Steps:
        self.encode_values(worker_seed)
        gathered = yield self.wire.allgather(
            self.payload, self.place.name, self.codec.name
        )
        self.codec.decode_mean(gathered.view(self.wire.size, -1), self.mean)


class TwoWay(CodedExchange):
    """Compressed reduce-scatter and compressed allgather; bytes do not grow.

    The bucket is cut into one chunk a worker. Each worker sends every owner its chunk's
    payload (alltoall); the owner averages in float32, encodes the average with a
    residual of its own, and sends that to all (allgather).
    """

    def __init__(self, place: Place, wire: Wire, codec: Compressor) -> None:
        super().__init__(place, wire, codec)
        cuts = chunk_cuts(place.num_values, wire.size, codec.block)
        sizes = [codec.payload_bytes(cut) for cut in cuts]
        self._splits = [end - start for start, end in zip(sizes, sizes[1:])]
        self.start, self.end = cuts[wire.rank], cuts[wire.rank + 1]
        self.owner = Feedback(self.end - self.start, place.device, codec.error_feedback)
        self._owned_payload = torch.empty(
            self._splits[wire.rank], dtype=torch.uint8, device=place.device
        )

    def ends(self) -> dict[str, Feedback]:
        return {"worker": self.worker, "owner": self.owner}

    def steps(self, worker_seed: int, owner_seed: int) -> Steps:
        name, codec = self.place.name, self.codec
        self.encode_values(worker_seed)
        parts = yield self.wire.alltoall(
            self.payload, self._splits, f"{name}.alltoall", codec.name
        )
        if self.end > self.start:
            self._average(parts.view(self.wire.size, -1), owner_seed)
        gathered = yield self.wire.allgather(
            self._owned_payload, f"{name}.allgather", codec.name
        )
        codec.decode(gathered, self.mean)

    def _average(self, parts: Tensor, seed: int) -> None:
        """The owned chunk's mean, re-encoded; ``parts`` is ``[size, bytes]``."""
        owner = self.owner
        self.codec.decode_mean(parts, owner.values)
        self.codec.encode(
            owner.values,
            owner.residual,
            self._owned_payload,
            owner.successor,
            seed,
            offset=self.start,
        )


def linear_dtype(codec: Compressor) -> torch.dtype:
    """The float format of a linear codec's payload, which an allreduce can sum."""
    dtype: torch.dtype = getattr(codec, "wire_dtype")
    return dtype


def chunk_cuts(num_values: int, size: int, block: int) -> list[int]:
    """The ``size + 1`` places at which a bucket is cut, whole blocks to a worker.

    Chunks differ by one block at most, apart from a last block that is not full.
    """
    blocks = -(-num_values // block)
    return [min(blocks * rank // size * block, num_values) for rank in range(size + 1)]
