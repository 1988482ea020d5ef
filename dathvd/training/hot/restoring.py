"""Going on from a hot state, where all ranks together find a whole one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dathvd import checkpoint
from dathvd.run_history import Attempt, is_current
from dathvd.runtime import (
    Runtime,
    bytes_from_root,
    from_root,
    gather_json,
    together,
)
from dathvd.training.hot.keeping import open_store, wanted_every
from dathvd.training.hot.store import SHARED, Moment, Store
from dathvd.training.saving import same_batches
from dathvd.training.state import Saved, TrainingState


def restore(
    state: TrainingState,
    runtime: Runtime,
    run_id: str,
    attempts: list[Attempt],
    newest_step: int,
    run: Path,
) -> Moment | None:
    """Go on from the newest hot state that is whole. A collective.

    Args:
        state: takes it over.
        runtime: this worker's place.
        run_id: of the run.
        attempts: the run's history.
        newest_step: of the checkpoints on disk; an older hot state is of no use.
        run: the run folder. A state that names a checkpoint which a crash left
            unwritten is of no use either: the best one, or one to roll back to.

    Returns:
        Which it was; None where there is none that is newer.
    """
    if not wanted_every():
        return None
    store = open_store(run_id)
    found = {} if store is None else store.moments()
    named = [[m.step, m.size, m.attempt] for m in found]
    everywhere = gather_json(named, "hot.moments", runtime.size)
    known = {Moment(*each) for host in everywhere for each in host}
    for moment in sorted(known, key=lambda each: (each.step, each.attempt))[::-1]:
        if moment.step <= newest_step:
            return None
        if not is_current(attempts, moment.attempt, moment.step):
            continue
        needed = _needed_ranks(moment, runtime)
        parts = _read_whole(store, moment, runtime, needed)
        if parts is not None and not _fits(state, moment, runtime, parts):
            needed = moment.ranks  # shared out anew, as among other workers
            parts = _read_whole(store, moment, runtime, needed)
        if parts is not None and _names_what_is_there(
            state, runtime, moment, parts[SHARED], run
        ):
            _take_over(state, runtime, moment, parts, needed)
            return moment
    return None


def _read_whole(
    store: Store | None, moment: Moment, runtime: Runtime, ranks: list[str]
) -> dict[str, bytes] | None:
    """The shared part and those ranks'; None where any is on no host or is damaged."""
    needed = {SHARED, *ranks}
    # who is first on a host vouches for all that is there, the others for their own
    looked_at = moment.parts if runtime.local_rank == 0 else needed
    own: dict[str, bytes] = {}
    for name in sorted(looked_at):
        data = None if store is None else store.read(moment, name)
        if data is not None:
            own[name] = data
    everyone = gather_json(sorted(own), "hot.parts", runtime.size)
    if set().union(*everyone) != moment.parts:
        return None
    missing = gather_json(sorted(needed - set(own)), "hot.missing", runtime.size)
    for name in sorted({name for names in missing for name in names}):
        holder = min(rank for rank in range(runtime.size) if name in everyone[rank])
        data = bytes_from_root(own.get(name, b""), "hot.from", root=holder)
        if name in needed:
            own[name] = data
    return {name: own[name] for name in needed}


def _needed_ranks(moment: Moment, runtime: Runtime) -> list[str]:
    """Its own part, or those of all where the number of workers is another."""
    if moment.size == runtime.size:
        return [str(runtime.rank)]
    return moment.ranks


def _fits(
    state: TrainingState, moment: Moment, runtime: Runtime, parts: dict[str, bytes]
) -> bool:
    """Whether what each rank owed belongs to the buckets and places of now."""
    if moment.size != runtime.size:
        return True  # shared out anew in any case
    own = checkpoint.load_bytes(parts[str(runtime.rank)], moment.name)
    fits = state.exchanger.fits(own["exchange"])
    return all(gather_json(fits, "hot.fits", runtime.size))


def _names_what_is_there(
    state: TrainingState, runtime: Runtime, moment: Moment, shared: bytes, run: Path
) -> bool:
    """Whether rank 0 sees the checkpoints that the state's guard keeps."""
    if state.guard is None:
        return True
    name = f"in memory ({moment.name})"
    saved = together(runtime, lambda: checkpoint.load_bytes(shared, name))
    guard = replace(state.guard)
    guard.load_state_dict(saved["guard"])
    folders = [checkpoint.checkpoint_folder(run, step) for step in guard.spared_steps]
    return from_root(runtime, all(folder.is_dir() for folder in folders))


def _take_over(
    state: TrainingState,
    runtime: Runtime,
    moment: Moment,
    parts: dict[str, bytes],
    ranks: list[str],
) -> None:
    name = f"in memory ({moment.name})"

    def read() -> tuple[Saved, list[Saved]]:
        own = [checkpoint.load_bytes(parts[rank], name) for rank in ranks]
        return checkpoint.load_bytes(parts[SHARED], name), own

    shared, own = together(runtime, read)
    together(runtime, lambda: state.load_weights(shared, name))
    state.load_shared_dict(shared)
    state.exchanger.load_state_dict([part["exchange"] for part in own])
    same_size = moment.size == runtime.size
    if same_size:
        saved = checkpoint.stored_config(shared, name)
        own = [own[ranks.index(str(runtime.rank))]]
        state.load_own_dict(own[0], same_batches=same_batches(saved, state.config))
    state.load_totals(own if same_size or runtime.is_root else [])
