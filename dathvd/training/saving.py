"""Checkpoints of a state: written by all ranks together, and gone on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dathvd import checkpoint
from dathvd.config import Config
from dathvd.distributed.from_root import load_on_root
from dathvd.runtime import AgreedError, Runtime, from_root, together
from dathvd.training.reading import PATIENCE, load_whole, read_part, what_root_sees
from dathvd.training.saver import Saver
from dathvd.training.state import TrainingState


def save(state: TrainingState, run: Path, runtime: Runtime) -> Path:
    """Write a checkpoint of this step, and wait for it; every rank calls it.

    Raises:
        UserError: on every rank, if any could not write, or if the workers hold
            different weights; nothing is left then.
    """
    saver = Saver(state, run, runtime)
    final = saver.begin()
    saver.finish()
    return final


def restore(state: TrainingState, folder: Path, runtime: Runtime) -> None:
    """Go on from a checkpoint; every rank calls it.

    Rank 0 alone needs to see ``model.pt``. With another number of workers the
    statistics start from their mean, and residuals are shared out anew.

    Raises:
        UserError: on every rank, if the checkpoint cannot be used.
    """
    patience = PATIENCE if runtime.size > runtime.local_size else 0.0
    name, shared = load_on_root(
        runtime, lambda: folder / "model.pt", lambda file: load_whole(file, patience)
    )
    seen = what_root_sees(runtime, folder, shared)
    same_size = shared["num_workers"] == runtime.size
    ranks = [runtime.rank] if same_size else range(shared["num_workers"])
    own = together(runtime, lambda: [read_part(folder, rank, seen) for rank in ranks])
    together(runtime, lambda: state.load_weights(shared, name))
    state.load_shared_dict(shared)
    owed = [part["exchange"] for part in own]
    if same_size and not state.exchanger.fits(owed[0]):
        everyone = range(runtime.size)
        parts = together(
            runtime, lambda: [read_part(folder, rank, seen) for rank in everyone]
        )
        owed = [part["exchange"] for part in parts]
    state.exchanger.load_state_dict(owed)
    state.load_totals(own if same_size or runtime.is_root else [])
    if same_size:
        saved = checkpoint.stored_config(shared, str(folder / "model.pt"))
        state.load_own_dict(own[0], same_batches=same_batches(saved, state.config))


NONE_LEFT = "no other checkpoint is left"
"""Said where the only checkpoint is damaged."""


def restore_newest(state: TrainingState, run: Path, runtime: Runtime) -> Path | None:
    """Go on from the newest checkpoint that is intact, if there is any checkpoint.

    Raises:
        UserError: none is intact; training does not begin again without being told.
    """
    listed = checkpoint.find_checkpoints(run) if runtime.is_root else []
    found = [Path(name) for name in from_root(runtime, [str(path) for path in listed])]
    while found:
        newest = found.pop()
        try:
            restore(state, newest, runtime)
            _forget_a_lost_best(state, run, runtime)
            return newest
        except AgreedError as error:
            if not error.unreadable:
                raise
            if not found:
                way_out = f"{NONE_LEFT}; move {newest} away to train from the beginning"
                raise AgreedError(f"{error}; {way_out}", error.exit_code) from None
            kept = checkpoint.aside(newest)
            if runtime.is_root:
                print(f"WARNING: {error}; kept as {kept.name}, taking {found[-1].name}")
            together(
                runtime,
                lambda: checkpoint.set_aside(newest) if runtime.is_root else None,
            )
    return None


def _forget_a_lost_best(state: TrainingState, run: Path, runtime: Runtime) -> None:
    """Choose anew where the best checkpoint is gone, as after damage to a later one."""
    guard = state.guard
    if guard is None or guard.selected_step is None:
        return
    best = checkpoint.checkpoint_folder(run, guard.selected_step)
    if from_root(runtime, best.is_dir()):
        return
    if runtime.is_root:
        print(f"WARNING: the best checkpoint, {best.name}, is gone; choosing anew")
    guard.best_step, guard.best_accuracy = None, -1.0


def same_batches(one: Config, other: Config) -> bool:
    """Whether as many workers are given the same images and labels in every step."""

    def decides(config: Config) -> tuple[Any, ...]:
        train = config.train
        held_out = train.guard.num_samples if train.probes else 0
        cut = (train.batch_size, train.backward_passes_per_step, held_out)
        return (config.seed, config.data, config.objective.name, *cut)

    return decides(one) == decides(other)
