"""Codecs on Horovod: the only join of the two."""

from dathvd.distributed.batch_norm import average_batch_norm
from dathvd.distributed.exchanger import Exchanger
from dathvd.distributed.optimizer import DistributedOptimizer
from dathvd.distributed.replicas import (
    ReplicasDiverged,
    assert_identical,
    broadcast_parameters,
)

__all__ = [
    "DistributedOptimizer",
    "Exchanger",
    "ReplicasDiverged",
    "assert_identical",
    "average_batch_norm",
    "broadcast_parameters",
]
