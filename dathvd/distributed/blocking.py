"""Collectives inside a network's passes, which wait for their result."""

from __future__ import annotations

import time

import horovod.torch as hvd
from torch import Tensor

from dathvd.distributed.ledger import Ledger
from dathvd.distributed.wire import Pending, Wire

PASS_TRAFFIC = Ledger()
"""What this process's networks sent in their own passes, apart from the gradients."""


def sum_over_workers(tensor: Tensor, name: str, purpose: str) -> Tensor:
    """The sum of the workers' tensors, which may take the tensor's place.

    The ledger has it under ``allreduce/purpose``.
    """
    return _result(_wire().allreduce(tensor, name, purpose, op=hvd.Sum))


def all_rows(tensor: Tensor, name: str, purpose: str) -> Tensor:
    """The workers' tensors by rank; the ledger has them under ``allgather/purpose``."""
    return _result(_wire().allgather(tensor, name, purpose))


def _wire() -> Wire:
    return Wire(hvd.rank(), hvd.size(), PASS_TRAFFIC, "dathvd")


def _result(pending: Pending) -> Tensor:
    began = time.perf_counter()
    result = pending.result()
    pending.entry.waited_seconds += time.perf_counter() - began
    return result
