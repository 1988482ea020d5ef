"""Checkpoints that are written while training goes on."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dathvd import checkpoint, dealing, heartbeat, run_lock, shared_disk
from dathvd.errors import UserError
from dathvd.runtime import Runtime, from_root, gather_json, together
from dathvd.training.state import Saved, TrainingState


@dataclass
class Pending:
    """A checkpoint that this rank's thread writes."""

    final: Path
    keep: int
    spare: set[int]
    write_id: str
    """In the name of its staging folder; never used before."""
    state_id: str
    """What all its files name."""
    write: threading.Thread = field(init=False)
    error: BaseException | None = None

    def begin(self, parts: dict[str, Any]) -> None:
        """Start writing; ``parts`` are for ``checkpoint.write_rank_files``."""

        def write() -> None:
            try:
                checkpoint.write_rank_files(self.final, **parts, write_id=self.write_id)
            except BaseException as error:  # raised anew by ``wait``
                self.error = error
            parts.clear()  # the copy's memory

        self.write = threading.Thread(target=write, name="checkpoint", daemon=True)
        self.write.start()

    def wait(self) -> None:
        """Until it is written.

        Raises:
            UserError: it could not be.
        """
        self.write.join()
        if self.error is not None:
            raise self.error


class Saver:
    """Copies a run's state, has a thread write the copy, and publishes it when all
    ranks have written theirs. Training stands still for the copy alone.

    At most one checkpoint is being written: the next waits for it.

    Args:
        state: of the run.
        run: its folder.
        runtime: this worker's place.
    """

    def __init__(self, state: TrainingState, run: Path, runtime: Runtime) -> None:
        self._state, self._run, self._runtime = state, run, runtime
        self._pending: Pending | None = None
        self._voted: tuple[Pending | None, Pending | None] = (None, None)
        self._began = time.monotonic()
        self._asked = False
        self._writers: list[int] | None = None
        self._id, self._begun = "", 0

    def votes(self) -> tuple[bool, bool]:
        """What this rank tells the others: it has written; a checkpoint is due.

        Rank 0's clock alone decides, once a checkpoint.
        """
        pending, minutes = self._pending, self._state.config.train.checkpoint_minutes
        written = pending is not None and not pending.write.is_alive()
        self._voted = (self._voted[1], pending if written else None)
        late = 0 < minutes * 60 <= time.monotonic() - self._began
        self._asked = late and self._runtime.is_root and not self._asked
        return written, self._asked

    def publish_if_written(self, votes: int) -> None:
        """Publish where all ranks voted, a step ago, that they had written.

        Every rank calls it. By now another checkpoint may be under way, on all ranks
        alike, which those votes do not count for.
        """
        before = self._voted[0]
        if votes == self._runtime.size and before is not None:
            if before is self._pending:
                self.finish()

    def begin(self) -> Path:
        """Copy this step's state and begin to write it; every rank calls it.

        Raises:
            UserError: on every rank, if an earlier checkpoint could not be written, or
                if the workers hold different weights; nothing is begun then.
        """
        self.finish()
        self._began = time.monotonic()
        state, runtime = self._state, self._runtime
        with heartbeat.resting():
            state_id = f"{state.step}-{runtime.size}-{state.check():x}"
            final = checkpoint.checkpoint_folder(self._run, state.step)
            spare = set() if state.guard is None else state.guard.spared_steps
            keep = state.config.train.keep_checkpoints
            pending = Pending(final, keep, spare, self._next_id(), state_id)
            parts = self._copy()
            together(runtime, run_lock.check_held)
            pending.begin(parts)
        self._pending = pending
        return final

    def finish(self) -> None:
        """Wait for what is being written, and publish it; every rank calls it.

        Raises:
            UserError: on every rank, if any could not write; nothing is left then.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return

        def wait() -> None:
            with run_lock.still_there():
                pending.wait()

        try:
            together(self._runtime, wait)
        except UserError:
            if looks_after_disk(self._runtime):
                checkpoint.discard_staging(pending.final, pending.write_id)
            raise
        self._publish(pending)

    def _next_id(self) -> str:
        """An id that no checkpoint had before, the same on all ranks."""
        if not self._id:
            self._id = from_root(self._runtime, shared_disk.new_id())
        self._begun += 1
        return f"{self._id}-{self._begun}"

    def _copy(self) -> dict[str, Any]:
        """What this rank writes, in memory of its own."""
        state, runtime = self._state, self._runtime
        shared = state.shared_dict(runtime.size)
        optimizer = shared.pop("optimizer")
        names = ("model", *shared.get("average_updates", {}))
        networks = [shared[name] for name in names]
        size = sum(each.nbytes for network in networks for each in network.values())
        owners = dealing.deal(optimizer, size, self._who_writes())
        dealt = dealing.own(optimizer, owners, runtime.rank)
        parts: dict[str, Any] = {"rank": runtime.rank, "own": _copied_own(state)}
        if runtime.is_root:
            at_home = dealing.kept(optimizer, owners, runtime.rank)
            alone = set(owners.values()) <= {0}
            shared["format"] = checkpoint.FORMAT if alone else checkpoint.DEALT
            shared["optimizer"] = checkpoint.copied(at_home)
            # the networks are copies already
            parts["shared"] = checkpoint.map_tensors(shared, lambda each: each.cpu())
            return {**parts, "best": best(state)}
        return {
            **parts,
            "shared": None,
            "dealt": checkpoint.copied(dealt),
        }

    def _who_writes(self) -> list[int]:
        """The ranks that have rank 0's disk."""
        if self._writers is None:
            shares = run_lock.shares_root_disk()
            all_of_them = gather_json(shares, "saver.disks", self._runtime.size)
            others = [rank for rank, yes in enumerate(all_of_them) if yes and rank]
            self._writers = [0, *others]
        return self._writers

    def _publish(self, pending: Pending) -> None:
        """Give the checkpoint its name, root's host first, and drop older ones."""
        runtime = self._runtime

        def publish(here: bool) -> None:
            if here:
                with run_lock.still_there():
                    checkpoint.publish(
                        pending.final, pending.keep, pending.spare, pending.write_id
                    )

        together(runtime, lambda: publish(runtime.is_root))
        elsewhere = looks_after_disk(runtime) and not runtime.is_root
        together(runtime, lambda: publish(elsewhere))


def looks_after_disk(runtime: Runtime) -> bool:
    """Whether this rank publishes and removes on its disk: rank 0, and the first rank
    of each host that has a disk of its own. Every other rank only adds files."""
    first = runtime.local_rank == 0 and not run_lock.shares_root_disk()
    return runtime.is_root or first


def best(state: TrainingState) -> dict[str, Any] | None:
    """What a checkpoint says of the best one."""
    guard = state.guard
    if guard is None or guard.selected_step is None:
        return None
    return {"step": guard.selected_step, "robust_accuracy": guard.best_accuracy}


def _copied_own(state: TrainingState) -> Saved:
    """What differs between ranks; residuals come as copies already."""
    own = state.own_dict()
    exchange = own.pop("exchange")
    return {**checkpoint.copied(own), "exchange": exchange}
