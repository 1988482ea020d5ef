"""Leaves a trace when it is imported, as code would that a checkpoint must not run."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

Path(os.environ["TRACE"]).write_text("imported")


def make_network(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """A linear network."""
    size = image_shape[0] * image_shape[1] * image_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(size, num_classes))
