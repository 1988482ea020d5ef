"""The run: how long, how much at once, what is kept."""

from __future__ import annotations

from typing import Literal

from dathvd.config.base import Count, Natural, Section


class TrainConfig(Section):
    """The training loop."""

    epochs: Count = 30
    """Passes over the training set."""
    batch_size: Count = 128
    """Images per step over all workers together."""
    backward_passes_per_step: Count = 1
    """Batches whose gradients are accumulated before one exchange and update."""
    checkpoint_every: Natural = 5
    """Epochs between checkpoints; 0 keeps the last one only."""
    keep_checkpoints: Count = 2
    """How many of the newest checkpoints are kept."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU of this local rank where there is one."""
    max_steps: Natural = 0
    """Stop after this many steps; 0 trains all epochs. For trials and tests."""
