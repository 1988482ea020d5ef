"""Codecs on Horovod: the only join of the two."""

from dathvd.distributed.batch_norm import (
    PUBLISHED_BATCH_NORM,
    average_batch_norm,
    synchronise_batch_norm,
)
from dathvd.distributed.blocking import PASS_TRAFFIC
from dathvd.distributed.exchanger import Exchanger
from dathvd.distributed.gather import gather_rows
from dathvd.distributed.optimizer import DistributedOptimizer, ExchangingOptimizer
from dathvd.distributed.replicas import (
    ReplicasDiverged,
    assert_identical,
    broadcast_parameters,
    check_weights,
)

__all__ = [
    "DistributedOptimizer",
    "Exchanger",
    "ExchangingOptimizer",
    "PASS_TRAFFIC",
    "PUBLISHED_BATCH_NORM",
    "ReplicasDiverged",
    "assert_identical",
    "average_batch_norm",
    "broadcast_parameters",
    "check_weights",
    "gather_rows",
    "synchronise_batch_norm",
]
