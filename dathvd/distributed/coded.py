"""The exchanges of payloads: a bucket is encoded, sent, and its mean decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import horovod.torch as hvd
import torch
from torch import Tensor

from dathvd.compression import Compressor
from dathvd.distributed.buckets import Bucket, Slot, chunk_cuts
from dathvd.distributed.exchanges import (
    Cut,
    FeedbackExchange,
    Seeds,
    Steps,
    ring_bytes,
)
from dathvd.distributed.feedback import Feedback
from dathvd.distributed.wire import Wire
from dathvd.errors import UserError
from dathvd.noise import codec_seed


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
