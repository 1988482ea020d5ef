"""The guard against catastrophic overfitting."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dathvd.config.base import Count, Natural, Section


class GuardConfig(Section):
    """A small attack on held-out training images before training and after each epoch.

    Training with one attack step can lose all robustness within an epoch while its own
    loss keeps falling (Wong, Rice and Kolter, Fast Is Better than Free, ICLR 2020).
    """

    action: Literal["none", "warn", "add_steps", "roll_back"] = "none"
    """What a collapse leads to: none (nobody looks for one), warn, add_steps (warn, and
    train on against more attack steps) or roll_back (first go back to the last epoch
    within half the drop of the best, each of which is saved)."""
    drop: Annotated[float, Field(gt=0, le=100)] = 20.0
    """Points of robust accuracy below the best so far that are a collapse."""
    num_samples: Count = 256
    """Training images that are held out, the same for any number of workers."""
    num_steps: Count = 10
    """Steps of the PGD that probes them, in the ball of the training attack."""
    added_steps: Count = 2
    """Attack steps that a collapse adds: an attack of one step becomes PGD, one from
    outside of dathvd has its num_steps raised."""
    max_actions: Natural = 3
    """Collapses that are acted upon; later ones are warned of."""
