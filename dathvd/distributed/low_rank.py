"""The exchange of codecs that factorise matrices: two allreduces of factors."""

from __future__ import annotations

import horovod.torch as hvd
import torch
from torch import Tensor

from dathvd.compression import FactorCompressor
from dathvd.distributed.buckets import Bucket
from dathvd.distributed.exchanges import BucketExchange, Seeds, Steps
from dathvd.distributed.feedback import Feedback
from dathvd.distributed.wire import Pending, Wire


class LowRank(BucketExchange):
    """A bucket of matrices, averaged by their factors P and Q.

    Args:
        bucket: the layout of its matrices.
        wire: the collectives.
        scale: factor of the gradients, such as 1 / backward passes per step.
        codec: makes the factors.
        seed: of the first Q, equal on all ranks.
    """

    collectives = "two allreduces"

    def __init__(
        self,
        bucket: Bucket,
        wire: Wire,
        scale: float,
        codec: FactorCompressor,
        seed: int,
    ) -> None:
        super().__init__(bucket, wire, scale)
        shapes = [slot.matrix for slot in bucket.slots]
        self._codec = codec.name
        self._factors = codec.factors(shapes, seed, bucket.device)
        self._before = self._factors.state_dict()
        values = sum(rows + cols for rows, cols in shapes) * self._factors.rank
        self._handed = 4 * values
        self.worker = Feedback(bucket.num_values, bucket.device, codec.error_feedback)
        self._mean = torch.zeros(bucket.num_values, device=bucket.device)

    @property
    def values(self) -> Tensor:
        return self.worker.values

    @property
    def mean(self) -> Tensor:
        return self._mean

    def sent_bytes(self) -> float:
        return 2 * self._handed * (self.wire.size - 1) / self.wire.size

    def ends(self) -> dict[str, Feedback]:
        return {"worker": self.worker}

    def shared_state(self) -> dict[str, Tensor]:
        return self._factors.state_dict()

    def load_shared_state(self, state: dict[str, Tensor]) -> None:
        self._factors.load_state_dict(state)

    def roll_back(self) -> None:
        self._factors.load_state_dict(self._before)

    def steps(self, seeds: Seeds) -> Steps:
        factors, gradients = self._factors, self.worker.values
        self._before = factors.state_dict()
        if self.scale != 1.0:
            gradients.mul_(self.scale)
        if self.worker.residual is not None:
            gradients.add_(self.worker.residual)
        left = yield self._average(factors.project(gradients), "left")
        right = factors.back_project(gradients, left)
        if self.worker.successor is not None:
            factors.residual(gradients, self.worker.successor)
        yield self._average(right, "right")
        factors.reconstruct(self._mean)

    def _average(self, factor: Tensor, side: str) -> Pending:
        return self.wire.allreduce(
            factor, f"{self.name}.{side}", self._codec, hvd.Average
        )
