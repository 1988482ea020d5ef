"""Error feedback: what a codec lost at one end, kept for the next step."""

from __future__ import annotations

import torch
from torch import Tensor


class Feedback:
    """One end's residual, and the buffer that holds values, then the next residual.

    The residual in use stays as it was until ``commit``: a step that is given up leaves
    no trace.

    Args:
        num_values: length of both.
        device: of both.
        enabled: without error feedback there is no residual.
    """

    def __init__(self, num_values: int, device: torch.device, enabled: bool) -> None:
        self.values = torch.zeros(num_values, device=device)
        self.residual = torch.zeros_like(self.values) if enabled else None

    @property
    def successor(self) -> Tensor | None:
        """Where ``encode`` writes the next residual: over the values it has read."""
        return None if self.residual is None else self.values

    def settle(self) -> None:
        """Make the next residual zero: nothing was lost."""
        if self.residual is not None:
            self.values.zero_()

    def commit(self) -> None:
        """Put the next residual into use."""
        if self.residual is not None:
            self.values, self.residual = self.residual, self.values
