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
    """Parts into which a step's batch is cut, one backward pass each, to save memory;
    one exchange and one update follow them."""
    overlap: Literal["none", "attack"] = "none"
    """attack: the attack on the next batch runs while gradients travel, on weights that
    are one step old."""
    checkpoint_every: Natural = 5
    """Epochs between checkpoints; 0 keeps the last one only."""
    keep_checkpoints: Count = 2
    """How many of the newest checkpoints are kept."""
    log_every: Count = 5
    """Steps between rows of metrics; between them nothing waits for the device."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU of this local rank where there is one."""
    max_steps: Natural = 0
    """Leave after this many steps with a checkpoint; 0 trains to the end. For trials:
    the same command without it goes on."""
