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
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import horovod.torch as hvd
import torch
from torch import Tensor

from dathvd.compression import Compressor
from dathvd.distributed.buckets import Bucket, Slot
from dathvd.distributed.feedback import Feedback
from dathvd.distributed.wire import Pending, Wire
from dathvd.errors import UserError
from dathvd.noise import codec_seed

Steps = Generator[Pending, Tensor, None]
Cut = dict[str, list[int] | list[list[int]]]


@dataclass(frozen=True)
class Seeds:
    """Seeds of one bucket in one step; ``owner`` is equal on all ranks."""

    worker: int
    owner: int


class BucketExchange(ABC):
    """One bucket's buffers and the way they are averaged.

    Args:
        bucket: the layout.
        wire: the collectives.
        scale: factor of the gradients, such as 1 / backward passes per step.
    """

    collectives: ClassVar[str] = "one allreduce"
    """What it submits in a step, in words."""
    feedback_at: ClassVar[str] = "the worker"
    """Where residuals are kept, in words, if the codec wants any."""
    owned: tuple[int, int] = (0, 0)
    """Start and end of the values whose average this worker encodes anew."""
    known_finite = False
    """Whether the payloads have told that the last mean is finite."""

    def __init__(self, bucket: Bucket, wire: Wire, scale: float) -> None:
        self.bucket = bucket
        self.wire = wire
        self.scale = scale
        self.name = f"bucket{bucket.index}"

    @property
    @abstractmethod
    def values(self) -> Tensor:
        """Where this step's gradients are put; flat."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """The mean over the workers once ``steps`` has ended; flat."""

    def put(self, slot: Slot, gradient: Tensor) -> None:
        """Take a parameter's gradient, which must not change before ``steps``."""
        target = slot.view(self.values)
        if target.data_ptr() != gradient.data_ptr():
            target.copy_(gradient)

    @abstractmethod
    def steps(self, seeds: Seeds) -> Steps:
        """Exchange the gradients that were put."""

    def exact_steps(self) -> Steps:
        """Exchange ``values`` uncompressed, before anything is owed (a warm-up)."""
        yield self.wire.allreduce(
            self.values, f"{self.name}.exact", "none", hvd.Average, self.scale
        )
        if self.mean is not self.values:
            self.mean.copy_(self.values)
        for end in self.ends().values():
            end.settle()

    @abstractmethod
    def sent_bytes(self) -> float:
        """What this worker sends in one step."""

    def leaving_bytes(self) -> float | None:
        """What of it leaves this worker's node; None where that is not known."""
        return None

    def cut(self) -> Cut:
        """How the bucket is cut: a checkpoint's residuals fit where this is equal.

        A rank's own part may be cut as before where others' are not, so this holds all
        that the cuts of all ranks follow from.
        """
        return {"owned": list(self.owned)}

    def ends(self) -> dict[str, Feedback]:
        """The ends that may keep a residual: ``worker``, ``sender``, ``owner``."""
        return {}

    def shared_state(self) -> dict[str, Tensor]:
        """What is kept from step to step and is the same on all ranks."""
        return {}

    def load_shared_state(self, state: dict[str, Tensor]) -> None:
        """Restore ``shared_state``."""

    def commit(self) -> None:
        """Make the step's residuals the ones in use."""
        for end in self.ends().values():
            end.commit()

    def roll_back(self) -> None:
        """Leave all that is kept as it was before the step."""


class PlainAllreduce(BucketExchange):
    """Horovod's own allreduce, in place, in the bucket's own type."""

    def __init__(self, bucket: Bucket, wire: Wire, scale: float) -> None:
        super().__init__(bucket, wire, scale)
        self._flat = torch.zeros(
            bucket.num_values, dtype=bucket.dtype, device=bucket.device
        )

    @property
    def values(self) -> Tensor:
        return self._flat

    @property
    def mean(self) -> Tensor:
        return self._flat

    def sent_bytes(self) -> float:
        return ring_bytes(self._flat, self.wire.size)

    def steps(self, seeds: Seeds) -> Steps:
        return self.exact_steps()


class FeedbackExchange(BucketExchange):
    """A bucket whose worker may keep a residual.

    Args:
        bucket: the layout.
        wire: the collectives.
        scale: factor of the gradients, such as 1 / backward passes per step.
        feedback: whether it keeps one.
    """

    def __init__(
        self, bucket: Bucket, wire: Wire, scale: float, *, feedback: bool
    ) -> None:
        super().__init__(bucket, wire, scale)
        size, device = bucket.num_values, bucket.device
        self.worker = Feedback(size, device, feedback)
        # the values' buffer takes the next residual; without one it is free again
        self._mean = torch.zeros(size, device=device) if feedback else None

    @property
    def values(self) -> Tensor:
        return self.worker.values

    @property
    def mean(self) -> Tensor:
        return self.worker.values if self._mean is None else self._mean

    def ends(self) -> dict[str, Feedback]:
        return {"worker": self.worker}

    def decode_result(self, payload: Tensor, codec: Compressor) -> None:
        """Decode the mean, from a payload of the whole bucket."""
        codec.decode(payload, self.mean)
        if payload.device.type == "cpu":  # a GPU would have to be waited for
            self.known_finite = codec.decodes_to_finite(payload)


class CodedExchange(FeedbackExchange):
    """What the exchanges of payloads share: encoding and decoding of the bucket.

    Codecs that must see one whole tensor at a time encode each of the bucket's tensors,
    one payload after the other. The blocks of all others are independent: on a CPU a
    gradient that fills whole blocks is encoded from where backward has left it, what
    lies between such gradients from the bucket.
    """

    def __init__(
        self, bucket: Bucket, wire: Wire, scale: float, codec: Compressor
    ) -> None:
        super().__init__(bucket, wire, scale, feedback=codec.error_feedback)
        self.codec = codec
        size, device = bucket.num_values, bucket.device
        tensors = [slot.num_values for slot in bucket.slots]
        self._parts = tensors if codec.per_tensor else [size]
        self._part_bytes = [codec.payload_bytes(part) for part in self._parts]
        self.payload = torch.empty(
            sum(self._part_bytes), dtype=torch.uint8, device=device
        )
        self._lent: dict[int, Tensor] = {}
        """Gradients that are encoded from where they lie, flat, by their offset."""

    def put(self, slot: Slot, gradient: Tensor) -> None:
        if self._fills_blocks(slot, gradient):
            flat = gradient.detach().as_strided((slot.num_values,), (1,))
            self._lent[slot.offset] = flat
        else:
            super().put(slot, gradient)

    def exact_steps(self) -> Steps:
        for offset, gradient in self._lent.items():
            self.values[offset : offset + gradient.numel()].copy_(gradient)
        self._lent.clear()
        return super().exact_steps()

    def encode_values(self, seed: int) -> None:
        """Turn the gradients into ``payload`` and the worker's next residual."""
        worker = self.worker
        parts = zip(
            worker.values.split(self._parts),
            self._split(worker.residual),
            self.payload.split(self._part_bytes),
            self._split(worker.successor),
        )
        for part, vectors in enumerate(parts):
            self._encode(*vectors, codec_seed(seed, part))

    def _encode(
        self,
        values: Tensor,
        residual: Tensor | None,
        wire: Tensor,
        successor: Tensor | None,
        seed: int,
    ) -> None:
        """Encode a part: gradients that are lent, and the ``values`` between them."""
        size_of = self.codec.payload_bytes
        for start, piece in self._pieces(values):
            end = start + piece.numel()
            self.codec.encode(
                piece,
                None if residual is None else residual[start:end],
                wire[size_of(start) : size_of(end)],
                None if successor is None else successor[start:end],
                seed,
                self.scale,
                start,
            )
        self._lent.clear()

    def _pieces(self, values: Tensor) -> Iterator[tuple[int, Tensor]]:
        """What a part consists of, in order, each with its place."""
        place = 0
        for offset, gradient in sorted(self._lent.items()):
            if place < offset:
                yield place, values[place:offset]
            yield offset, gradient
            place = offset + gradient.numel()
        if place < values.numel():
            yield place, values[place:]

    def _fills_blocks(self, slot: Slot, gradient: Tensor) -> bool:
        """Whether the gradient lies as its slot does, and no block holds others too."""
        block, end = self.codec.block, slot.offset + slot.num_values
        return (
            not self.codec.per_tensor
            and slot.offset % block == 0
            and (end % block == 0 or end == self.bucket.num_values)
            and gradient.device.type == "cpu"
            and gradient.dtype == torch.float32
            and gradient.stride() == slot.stride
        )

    def decode_mean(self, payloads: Tensor) -> None:
        """The mean of payloads ``[workers, bytes]`` of the whole bucket."""
        means = self.mean.split(self._parts)
        for wires, mean in zip(payloads.split(self._part_bytes, 1), means):
            self.codec.decode_mean(wires.contiguous(), mean)

    def _split(self, vector: Tensor | None) -> Sequence[Tensor | None]:
        if vector is None:
            return [None] * len(self._parts)
        return list(vector.split(self._parts))


class LinearAllreduce(CodedExchange):
    """Allreduce of values in a shorter float format, summed in that format."""

    def __init__(
        self, bucket: Bucket, wire: Wire, scale: float, codec: Compressor
    ) -> None:
        super().__init__(bucket, wire, scale, codec)
        dtype = getattr(codec, "wire_dtype", None)
        if dtype is None:
            raise UserError(
                f"compression: {codec.name} names allreduce but has no wire_dtype, the "
                "float type of its payload"
            )
        self._short = self.payload.view(dtype)

    def sent_bytes(self) -> float:
        return ring_bytes(self._short, self.wire.size)

    def steps(self, seeds: Seeds) -> Steps:
        self.encode_values(seeds.worker)
        total = yield self.wire.allreduce(
            self._short, self.name, self.codec.name, hvd.Sum
        )
        # divided in float32: in the short format small means would be rounded to zero
        self.mean.copy_(total[: self.bucket.num_values])
        if self.wire.size > 1:
            self.mean.mul_(1.0 / self.wire.size)


class Allgather(CodedExchange):
    """Everyone receives everyone's payload; bytes grow with the workers."""

    collectives = "one allgather"

    def sent_bytes(self) -> float:
        return self.payload.numel() * (self.wire.size - 1)

    def steps(self, seeds: Seeds) -> Steps:
        self.encode_values(seeds.worker)
        gathered = yield self.wire.allgather(self.payload, self.name, self.codec.name)
        self.decode_mean(gathered.view(self.wire.size, -1))


class TwoWay(CodedExchange):
    """Compressed reduce-scatter and compressed allgather; bytes do not grow.

    The bucket is cut into one chunk a worker. Each worker sends every owner its chunk's
    payload (alltoall); the owner averages in float32, encodes the average with a
    residual of its own, and sends that to all (allgather).
    """

    collectives = "alltoall, mean, allgather"
    feedback_at = "both ends"

    def __init__(
        self, bucket: Bucket, wire: Wire, scale: float, codec: Compressor
    ) -> None:
        super().__init__(bucket, wire, scale, codec)
        cuts = chunk_cuts(bucket.num_values, wire.size, codec.block)
        sizes = [codec.payload_bytes(cut) for cut in cuts]
        self._splits = [end - start for start, end in zip(sizes, sizes[1:])]
        self.owned = start, end = cuts[wire.rank], cuts[wire.rank + 1]
        self.owner = Feedback(end - start, bucket.device, codec.error_feedback)
        self._owned_payload = torch.empty(
            self._splits[wire.rank], dtype=torch.uint8, device=bucket.device
        )

    def sent_bytes(self) -> float:
        owned = self._splits[self.wire.rank]
        return sum(self._splits) - owned + owned * (self.wire.size - 1)

    def ends(self) -> dict[str, Feedback]:
        return {"worker": self.worker, "owner": self.owner}

    def cut(self) -> Cut:
        return {**super().cut(), "blocks": [self.codec.block]}

    def steps(self, seeds: Seeds) -> Steps:
        codec = self.codec
        self.encode_values(seeds.worker)
        parts = yield self.wire.alltoall(
            self.payload, self._splits, f"{self.name}.scatter", codec.name
        )
        if self.owned[1] > self.owned[0]:
            self._encode_average(parts.view(self.wire.size, -1), seeds.owner)
        gathered = yield self.wire.allgather(
            self._owned_payload, f"{self.name}.gather", codec.name
        )
        self.decode_result(gathered, codec)

    def _encode_average(self, parts: Tensor, seed: int) -> None:
        """The owned chunk's mean, re-encoded; ``parts`` is ``[size, bytes]``."""
        owner = self.owner
        self.codec.decode_mean(parts, owner.values)
        self.codec.encode(
            owner.values,
            owner.residual,
            self._owned_payload,
            owner.successor,
            seed,
            offset=self.owned[0],
        )


def chunk_cuts(num_values: int, size: int, block: int) -> list[int]:
    """The ``size + 1`` places at which a bucket is cut, whole blocks to a worker.

    Chunks differ by one block at most, apart from a last block that is not full.
    """
    blocks = -(-num_values // block)
    return [min(blocks * rank // size * block, num_values) for rank in range(size + 1)]


def ring_bytes(tensor: Tensor, size: int) -> float:
    """What each of ``size`` workers sends in a ring allreduce of ``tensor``."""
    return 2 * tensor.numel() * tensor.element_size() * (size - 1) / size
