"""Horovod's own distributed optimizer, its gradients carried by our exchanges.

The seam is one private method of Horovod 0.28.1: ``synchronize()`` takes for each
parameter the ``(handle, context)`` that ``_allreduce_grad_async(parameter)`` returned,
and a *callable* handle is called for the aggregated gradient. An override of that
method on the instance is therefore enough; hooks, delays, ``synchronize``, ``step``,
``skip_synchronize`` and ``zero_grad`` stay Horovod's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any

import horovod.torch as hvd
import horovod.torch.optimizer
import torch
from torch import Tensor
from torch.nn import Parameter

from dathvd.compression import Compression, Compressor, as_compressor
from dathvd.distributed.buckets import (
    DEFAULT_BUCKET_BYTES,
    DEFAULT_MIN_VALUES,
    fingerprint,
    plan_buckets,
)
from dathvd.distributed.describe import describe
from dathvd.distributed.exchange_choice import (
    INSIDE_NODES,
    Carriage,
    choose_exchange,
)
from dathvd.distributed.exchanger import Exchanger
from dathvd.distributed.ledger import Ledger
from dathvd.distributed.placement import Placement
from dathvd.distributed.provisional import UpdateBackup
from dathvd.distributed.wire import Wire
from dathvd.errors import UserError, choose
from dathvd.optim.clipping import clipping
from dathvd.runtime import AgreedError, gather_json

HOROVOD_VERSION = "0.28.1"
SEAM = ("_allreduce_grad_async", "_register_hooks", "synchronize", "skip_synchronize")
_count = itertools.count()


class ExchangingOptimizer(torch.optim.Optimizer):
    """The type of what ``DistributedOptimizer`` gives: Horovod's, with an exchanger.

    For annotations alone. Horovod makes the object's class from the given optimizer's.
    """

    exchanger: Exchanger
    """What carries its gradients."""


def DistributedOptimizer(
    optimizer: torch.optim.Optimizer,
    named_parameters: Iterable[tuple[str, Parameter]] | None = None,
    compression: Compressor | type[Compressor] = Compression.none,
    exchange: str = "auto",
    backward_passes_per_step: int = 1,
    *,
    inside_nodes: str = "fp32",
    seed: int = 0,
    bucket_bytes: int = DEFAULT_BUCKET_BYTES,
    min_values: int = DEFAULT_MIN_VALUES,
    max_skipped_in_a_row: int = 10,
    warmup_steps: int = 0,
    max_gradient_norm: float | None = None,
) -> ExchangingOptimizer:
    """``hvd.DistributedOptimizer`` with compressed exchanges, after ``hvd.init()``.

    Use it as Horovod's: ``backward()`` starts the exchanges, ``step()`` waits for them
    and updates with the mean over workers and backward passes. A step whose mean
    gradient is not finite changes neither parameters nor the optimizer's state nor
    residuals. With one worker nothing is sent but the codec still applies, so that a
    run on one worker is an honest simulation; plain Horovod registers no hooks then.

    As with Horovod, a new optimizer of the same class is made from ``param_groups``;
    the given one's state and what it keeps outside of its groups are not taken over.

    Args:
        optimizer: its parameters are those exchanged, apart from frozen ones.
        named_parameters: unique names in the model's order, equal on all ranks; None
            numbers the parameters.
        compression: codec of the large tensors; biases, norms and tensors of fewer than
            ``min_values`` values travel as they are.
        exchange: ``auto``, ``allreduce``, ``allgather``, ``two-way`` or
            ``hierarchical``: plain inside a node, two-way between nodes.
        backward_passes_per_step: backward calls whose gradients are averaged.
        inside_nodes: ``fp32`` or ``bf16``: the type in which the hierarchical exchange
            sends gradients inside a node.
        seed: of stochastic codecs.
        bucket_bytes: size of the buckets before compression.
        max_skipped_in_a_row: non-finite steps in a row that end the job.
        warmup_steps: steps at the start that exchange uncompressed gradients, while
            they change fastest, as 1-bit Adam (Tang et al., ICML 2021) and deep
            gradient compression (Lin et al., ICLR 2018) begin.
        max_gradient_norm: the mean gradient of all parameters, as it is after
            decompression and the same on all workers, is scaled down to this length
            where it is longer (Pascanu, Mikolov and Bengio, ICML 2013); None leaves it.

    Returns:
        Horovod's optimizer, with an ``Exchanger`` as its attribute ``exchanger``.

    Raises:
        UserError: a wrong option, an exchange that the codec lacks, or parameters that
            differ between ranks.
    """
    compressor = as_compressor(compression)
    choose("inside_nodes", inside_nodes, INSIDE_NODES)
    placement = Placement.here()
    choice = choose_exchange(compressor, exchange, placement)
    _check_options(backward_passes_per_step, bucket_bytes, max_skipped_in_a_row)
    if max_gradient_norm is not None and max_gradient_norm <= 0:
        raise UserError(f"max_gradient_norm: must be above 0, got {max_gradient_norm}")
    if warmup_steps < 0:
        raise UserError(f"warmup_steps: must be at least 0, got {warmup_steps}")
    named = _names(optimizer) if named_parameters is None else list(named_parameters)
    wrapped = hvd.DistributedOptimizer(
        optimizer,
        named_parameters=named,
        backward_passes_per_step=backward_passes_per_step,
    )
    _check_seam(wrapped)
    if not wrapped._requires_update:
        wrapped._register_hooks()  # Horovod itself does so for two or more workers
    trained = [(name, p) for name, p in named if p in wrapped._requires_update]
    buckets = plan_buckets(
        trained,
        bucket_bytes,
        min_values,
        lambda matrix: compressor.suits(matrix, choice.name),
    )
    _agree(
        f"{fingerprint(buckets)} {compressor!r} {choice} {inside_nodes} "
        f"{backward_passes_per_step} {seed}"
    )
    wire = Wire(hvd.rank(), hvd.size(), Ledger(), f"dathvd{next(_count)}")
    scale = 1.0 / backward_passes_per_step
    carriage = Carriage(
        compressor, choice.name, wire, scale, seed, placement, inside_nodes
    )
    exchanges = carriage.of(buckets)
    exchanger = Exchanger(
        trained,
        exchanges,
        wire,
        seed=seed,
        max_skipped_in_a_row=max_skipped_in_a_row,
        warmup_steps=warmup_steps,
        description=describe(compressor, choice, exchanges, hvd.size()),
    )
    clip = clipping([parameter for _, parameter in trained], max_gradient_norm)
    return _attach(wrapped, exchanger, clip)


def _attach(
    wrapped: Any, exchanger: Exchanger, clip: Callable[[], None]
) -> ExchangingOptimizer:
    """Put the exchanger under Horovod's optimizer; the instance alone is changed."""
    synchronize, step = wrapped.synchronize, wrapped.step

    def start_exchange(
        self: Any, parameter: Parameter
    ) -> tuple[Callable[[], Tensor], None]:
        return exchanger.submit(parameter), None

    def finish_exchange(self: Any) -> None:
        exchange(self)
        exchanger.conclude(exchanger.finite().read())

    def exchange(self: Any) -> None:
        _refuse_thawed(self)
        synchronize()

    def step_if_finite(
        self: Any, closure: Callable[[], float] | None = None
    ) -> float | None:
        if not self._should_synchronize:  # the caller has called synchronize()
            return update(closure)
        # Horovod would exchange a second time what synchronize() has exchanged
        if self._handles or not self._synchronized:
            if exchanger.device.type != "cpu" and closure is None:
                update_provisionally(self)
                return None
            self.synchronize()
        with self.skip_synchronize():
            return update(closure)

    def update(closure: Callable[[], float] | None) -> float | None:
        if exchanger.last_skipped:
            wrapped._synchronized = False
            return None
        clip()
        loss: float | None = step(closure)
        return loss

    def update_provisionally(self: Any) -> None:
        """Launch the update before the host knows whether the step counts."""
        exchange(self)
        finite = exchanger.finite()
        backup.take()
        clip()
        with self.skip_synchronize():
            step()
        counts = finite.read()
        if not counts:
            backup.put_back()
            self._synchronized = False
        exchanger.conclude(counts)

    backup = UpdateBackup(wrapped)
    wrapped.exchanger = exchanger
    wrapped._allreduce_grad_async = MethodType(start_exchange, wrapped)
    wrapped.synchronize = MethodType(finish_exchange, wrapped)
    # learning-rate schedulers wrap step again, and need a bound method for it
    wrapped.step = MethodType(step_if_finite, wrapped)
    optimizer: ExchangingOptimizer = wrapped
    return optimizer


def _refuse_thawed(wrapped: Any) -> None:
    for group in wrapped.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad and parameter not in wrapped._requires_update:
                name = wrapped._parameter_names.get(parameter, "a parameter")
                raise UserError(
                    f"{name}: was frozen or absent when DistributedOptimizer was built "
                    "and is not exchanged; build the optimizer again"
                )


def _names(optimizer: torch.optim.Optimizer) -> list[tuple[str, Parameter]]:
    return [
        (f"parameter.{group}.{place}", parameter)
        for group, settings in enumerate(optimizer.param_groups)
        for place, parameter in enumerate(settings["params"])
    ]


def _check_options(passes: int, bucket_bytes: int, max_skipped: int) -> None:
    for name, value in (
        ("backward_passes_per_step", passes),
        ("bucket_bytes", bucket_bytes),
        ("max_skipped_in_a_row", max_skipped),
    ):
        if value < 1:
            raise UserError(f"{name}: must be at least 1, got {value}")


def _check_seam(wrapped: Any) -> None:
    needed = (*SEAM, "_requires_update", "_parameter_names", "_should_synchronize")
    missing = [name for name in needed if not hasattr(wrapped, name)]
    if missing:
        raise UserError(
            f"Horovod {horovod.__version__} lacks {', '.join(missing)}; "
            f"this release works with Horovod {HOROVOD_VERSION}"
        )


def _agree(plan: str) -> None:
    """Refuse ranks that would exchange different buckets, which would hang."""
    if hvd.size() == 1:
        return
    plans = gather_json(plan, "dathvd.plan", hvd.size())
    different = [rank for rank, other in enumerate(plans) if other != plans[0]]
    if different:
        raise AgreedError(
            f"rank {different[0]}'s parameters, codec or seed differ from rank 0's; "
            "all ranks must build the same model with the same configuration"
        )
