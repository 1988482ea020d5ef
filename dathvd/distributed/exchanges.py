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
from typing import ClassVar

import horovod.torch as hvd
import torch
from torch import Tensor

from dathvd.compression import Compressor
from dathvd.distributed.buckets import Bucket, Slot
from dathvd.distributed.feedback import Feedback
from dathvd.distributed.wire import Pending, Wire

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


def ring_bytes(tensor: Tensor, size: int) -> float:
    """What each of ``size`` workers sends in a ring allreduce of ``tensor``."""
    return 2 * tensor.numel() * tensor.element_size() * (size - 1) / size
