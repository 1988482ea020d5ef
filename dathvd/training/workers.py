"""A run's state at its start: a network that all workers share, and its optimizer."""

from __future__ import annotations

import torch

from dathvd.compression import build_compressor
from dathvd.config import Config
from dathvd.data import Dataset, ImageSet
from dathvd.distributed import (
    DistributedOptimizer,
    ExchangingOptimizer,
    broadcast_parameters,
)
from dathvd.runtime import Runtime, together
from dathvd.training.build import NamedParameters, build_training, first_model
from dathvd.training.guard import Guard
from dathvd.training.helper import load_helper
from dathvd.training.pretrained import initialise
from dathvd.training.state import TrainingState
from dathvd.training.statistics import take_anew


def build_state(
    config: Config,
    dataset: Dataset,
    runtime: Runtime,
    held_out: ImageSet | None = None,
    *,
    begins: bool = True,
) -> TrainingState:
    """A fresh network, equal on all workers, with its optimizer; every rank calls it.

    Args:
        config: all that decides the run.
        dataset: as the task sees it.
        runtime: this worker's place.
        held_out: images for the guard; None leaves it out.
        begins: the first weights count; else a checkpoint follows, and what
            ``model.init`` names need not be there any more.

    Raises:
        UserError: on every rank, if the network or its first weights cannot be had.
    """
    model = together(runtime, lambda: first_model(config, dataset))
    model = model.to(runtime.device)
    origin = initialise(model, config.model, runtime) if begins else None
    helper = load_helper(config, dataset, runtime)
    trainer = build_training(
        config,
        model,
        runtime.device,
        rank=runtime.rank,
        wrap=lambda optimizer, named: _exchanging(config, optimizer, named),
        share=broadcast_parameters,
        helper=helper,
    )
    state = TrainingState(config, trainer, dataset.image_shape, len(dataset.classes))
    state.origin = origin
    if held_out is not None:
        state.guard = Guard(config, held_out, runtime)
    if config.train.takes_statistics_anew:
        state.take_statistics = lambda network: take_anew(
            network, dataset, config, runtime
        )
    return state


def _exchanging(
    config: Config, optimizer: torch.optim.Optimizer, named: NamedParameters
) -> ExchangingOptimizer:
    """The optimizer, its gradients compressed and exchanged as configured."""
    compression = config.compression
    return DistributedOptimizer(
        optimizer,
        named_parameters=named,
        compression=build_compressor(compression),
        exchange=compression.exchange,
        inside_nodes=compression.inside_nodes,
        bucket_bytes=int(compression.bucket_megabytes * 1e6),
        max_skipped_in_a_row=compression.max_skipped_in_a_row,
        max_gradient_norm=config.optimizer.max_gradient_norm,
        backward_passes_per_step=config.train.backward_passes_per_step,
        seed=config.seed,
    )
