"""The network of the campaign's jobs: small, and it can be told to compute a wrong bit.

It is a component by its place, ``model.name: dathvd.rig.chaos.victim:network``, so that
training itself knows nothing of the fault.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dathvd.ranks import launched_rank

ORDER = "DATHVD_CHAOS_ORDER"
"""The environment variable with the file that orders a wrong computation."""
HOLD = "DATHVD_CHAOS_HOLD"
"""The environment variable with the file while which exists steps are slow."""
_HELD = 1.0  # seconds


def network(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """A hidden layer with batch norm, whose weights can lose a bit."""
    channels, height, width = image_shape
    return Victim(
        nn.Flatten(),
        nn.Linear(channels * height * width, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, num_classes),
    )


class Victim(nn.Sequential):
    """Computes wrongly once, or takes its time, when files say so."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch."""
        if self.training:
            if os.path.exists(os.environ.get(HOLD, "")):
                time.sleep(_HELD)
            order = _take_order()
            if order is not None and order["bit"] is None:
                images = images * torch.inf
            elif order is not None:
                _flip(self, order["bit"])
        logits: Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        return logits


def order_wrong(file: Path, *, rank: int, bit: int | None) -> None:
    """Have a rank compute wrongly at its next training pass.

    Args:
        file: that ``ORDER`` names in the rank's environment.
        rank: which one computes wrongly.
        bit: that flips, of a weight in the middle of the largest tensor, from 0 to 31;
            None: what the pass computes is infinite, or not a number.
    """
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps({"rank": rank, "bit": bit}), encoding="utf-8")
    draft.rename(file)


def _take_order() -> dict[str, Any] | None:
    """What this rank is to do wrongly now, which is told once, also over restarts."""
    file = Path(os.environ.get(ORDER, ""))
    try:
        order: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if order["rank"] != launched_rank():
            return None
        file.unlink()
    except OSError:
        return None
    return order


def _flip(model: nn.Module, bit: int) -> None:
    with torch.no_grad():
        weights = max(model.parameters(), key=lambda each: each.numel())
        bits = weights.view(torch.int32).view(-1)
        # as a signed number: 1 << 31 does not fit
        mask = torch.tensor(1 << bit, dtype=torch.int64).to(torch.int32)
        bits[len(bits) // 2] ^= mask
