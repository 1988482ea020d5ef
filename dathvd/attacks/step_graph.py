"""A gradient step of an attack as a CUDA graph.

The graph works on tensors of its own, into which each batch is copied, and on the
twin's weights, which are renewed where they are. One step is captured and replayed once
for each step of the attack, so that exchanges still move on between steps.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dathvd.attacks.graphs import Replayed, can_capture
from dathvd.attacks.problem import Problem
from dathvd.attacks.twin import Twin

Advance = Callable[[Problem, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""A function of problem, points, velocity and step size: the next points and
velocity."""
_MOST = 2
"""Graphs of one twin: whole batches, and those that are one image shorter."""


class StepGraph:
    """One step for batches of one shape.

    Args:
        advance: the step.
        problem: a batch of that shape; what the batch holds is not kept.
        pool: of device memory.
    """

    def __init__(self, advance: Advance, problem: Problem, pool: object) -> None:
        self._advance = advance
        self._problem = replace(
            problem,
            images=problem.images.clone(),
            goal=problem.goal.clone(),
            clean=None if problem.clean is None else problem.clean.clone(),
            flaw=problem.flaw.clone(),
        )
        self._points = torch.empty_like(self._problem.images)
        self._velocity = torch.empty_like(self._points)
        self._size = torch.zeros(
            (), dtype=self._points.dtype, device=self._points.device
        )
        self._step_size: float | None = None
        self._replay = Replayed(self._step, pool, has_run=True)

    def run(
        self,
        problem: Problem,
        points: Tensor,
        sizes: Sequence[float],
        between: Callable[[], object],
    ) -> Tensor:
        """The points after a step of each size, as a new tensor.

        Args:
            problem: a batch of the graph's shape on the graph's network.
            points: where to start.
            sizes: of the steps, in pixel units.
            between: called before each step.
        """
        self._problem.images.copy_(problem.images)
        self._problem.goal.copy_(problem.goal)
        if self._problem.clean is not None and problem.clean is not None:
            self._problem.clean.copy_(problem.clean)
        self._points.copy_(points)
        self._velocity.zero_()
        self._problem.flaw.zero_()
        for size in sizes:
            between()
            if size != self._step_size:
                self._step_size = size
                self._size.fill_(size)
            self._replay()
        problem.flaw.add_(self._problem.flaw)
        return self._points.clone()

    def _step(self) -> None:
        points, velocity = self._advance(
            self._problem, self._points, self._velocity, self._size
        )
        self._points.copy_(points)
        if velocity is not self._velocity:
            self._velocity.copy_(velocity)


def step_graph(advance: Advance, owner: object, problem: Problem) -> StepGraph | None:
    """The graph for a batch; None where the step is to be launched as usual.

    That is where the batch is on a CPU or its network no twin that allows it, where no
    batch of its shape will come again, and where none has come before: the first one
    runs as usual, which also makes libraries choose their kernels.

    Args:
        advance: the step.
        owner: the attack; its settings do not change.
        problem: the batch.
    """
    twin = problem.network
    if not (
        isinstance(twin, Twin)
        and twin.captures
        and problem.repeats
        and len(problem.images)
        and can_capture(problem.images)
    ):
        return None
    images, clean = problem.images, problem.clean
    key: Hashable = (
        owner,
        images.shape,
        problem.goal.shape,
        images.dtype,
        clean is None,
    )
    if key not in twin.graphs:
        twin.graphs[key] = None
        return None
    graph: StepGraph | None = twin.graphs[key]
    if graph is None and sum(g is not None for g in twin.graphs.values()) < _MOST:
        graph = twin.graphs[key] = StepGraph(advance, problem, twin.pool)
    return graph
