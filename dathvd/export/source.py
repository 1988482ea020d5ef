"""The network that is exported, out of a checkpoint; none of its code is run."""

from __future__ import annotations

from pathlib import Path

from dathvd import checkpoint
from dathvd.errors import UserError
from dathvd.export.form import Trained

Chosen = checkpoint.Which | int
"""A checkpoint of a run: the newest, the best, or the one after so many steps."""


def load_trained(
    run: Path,
    which: Chosen = "last",
    weights: checkpoint.Weights = "raw",
    trust: checkpoint.Trust = False,
) -> Trained:
    """The network of a run folder or of a checkpoint folder.

    Args:
        run: a run folder or a checkpoint folder.
        which: of a run folder, the newest, the best, or that after so many steps.
        weights: the last step's (raw) or their average (ema, or its name).
        trust: whether the network may lie outside of dathvd.

    Raises:
        UserError: there is no such checkpoint, it is damaged, it holds no such weights,
            or its network lies outside of dathvd and is not trusted.
    """
    if isinstance(which, int):
        folder = checkpoint_of(run, which)
    else:
        folder = checkpoint.resolve(run, which)
    file = folder / "model.pt"
    state = checkpoint.load_file(file)
    model, config = checkpoint.restore_model(state, str(file), weights, trust=trust)
    channels, height, width = (int(size) for size in state["image_shape"])
    return Trained(
        model.requires_grad_(False),
        config,
        (channels, height, width),
        int(state["num_classes"]),
        int(state["step"]),
        weights,
        run_of(folder),
    )


def checkpoint_of(run: Path, step: int) -> Path:
    """The checkpoint after that step.

    Raises:
        UserError: the run has none; the message lists those that it has.
    """
    folder = checkpoint.checkpoint_folder(run, step)
    if not checkpoint.is_checkpoint(folder):
        there = [str(checkpoint.step_of(p)) for p in checkpoint.find_checkpoints(run)]
        raise UserError(
            f"--checkpoint {step}: {run} has none of that step "
            f"(there are: {', '.join(there) or 'none'})"
        )
    return folder


def run_of(folder: Path) -> Path:
    """The run folder of a checkpoint; the checkpoint itself where it stands alone."""
    outer = folder.absolute().parent
    return outer.parent if outer.name == "checkpoints" else folder.absolute()
