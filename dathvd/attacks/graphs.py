"""Work on fixed tensors, captured once as a CUDA graph and replayed.

A replay costs the host one call where the work itself costs a launch for each of its
kernels. The kernels, their order and hence their bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Action = Callable[[], None]
"""Reads and writes tensors that stay where they are; the host decides nothing in it."""


def can_capture(tensor: Tensor) -> bool:
    """Whether work on this tensor can become a graph."""
    return tensor.is_cuda and not torch.cuda.is_current_stream_capturing()


def new_pool(tensor: Tensor) -> object:
    """Device memory for the graphs of one owner, which run one after another."""
    return torch.cuda.graph_pool_handle() if tensor.is_cuda else None


def capture(action: Action, pool: Any = None) -> Action:
    """A function that does ``action`` by one launch; it must have run before.

    The first run is what loads kernels and lets libraries choose theirs, which no
    capture can hold. Other threads may use the device meanwhile (Horovod's does):
    only this thread's calls are restricted.

    Args:
        action: what to capture; it is recorded, not run.
        pool: of device memory, shared with graphs that never run at once.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        action()
    return graph.replay


class Replayed:
    """An action that runs as it is at first, and is captured when it is called again.

    Args:
        action: see ``Action``.
        pool: see ``capture``.
        has_run: whether the same work has run before, on whatever tensors.
    """

    def __init__(
        self, action: Action, pool: Any = None, *, has_run: bool = False
    ) -> None:
        self._action = action
        self._pool = pool
        self._replay: Action | None = None
        self._has_run = has_run

    def __call__(self) -> None:
        """Do the action once."""
        if self._has_run and self._replay is None:
            self._replay = capture(self._action, self._pool)
        run = self._replay or self._action
        run()
        self._has_run = True
