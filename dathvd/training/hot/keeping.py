"""Keeping hot states while training goes on."""

from __future__ import annotations

import io
import os
import socket
import threading

import torch

from dathvd import checkpoint
from dathvd.distributed.between_hosts import send_to_partner
from dathvd.ranks import HOT_EVERY
from dathvd.runtime import Runtime, gather_json
from dathvd.training.hot.store import SHARED, Moment, Store
from dathvd.training.state import Saved, TrainingState


def wanted_every() -> int:
    """Steps between hot states; 0 where none are asked for."""
    text = os.environ.get(HOT_EVERY, "")
    return int(text) if text.isdigit() else 0


class HotState:
    """Copies the state every few steps; a thread writes the copy. All ranks make one.

    Args:
        state: of the run.
        runtime: this worker's place.
        run_id: of the run.
        attempt: the number of this attempt in the run's history.
    """

    def __init__(
        self, state: TrainingState, runtime: Runtime, run_id: str, attempt: int
    ) -> None:
        self._state, self._runtime, self._attempt = state, runtime, attempt
        self._every = wanted_every()
        self._thread: threading.Thread | None = None
        self._store = open_store(run_id) if self._every else None
        self._hosts = [""] * runtime.size
        if self._every:
            self._hosts = gather_json(socket.gethostname(), "hot.hosts", runtime.size)

    def keep_if_due(self) -> None:
        """Keep this step's state if it is one of every few. A collective then."""
        if self._every and self._state.step % self._every == 0:
            self.keep()

    def keep(self) -> None:
        """Copy the state and have it written. A collective.

        Raises:
            ReplicasDiverged: workers hold different weights; nothing is kept then.
        """
        self.wait()
        state, runtime = self._state, self._runtime
        state.check()
        moment = Moment(state.step, runtime.size, self._attempt)
        shared = state.shared_dict(runtime.size)
        parts = {str(runtime.rank): checkpoint.copied(state.own_dict())}
        if runtime.local_rank == 0:
            parts[SHARED] = checkpoint.copied(shared)
        self._thread = threading.Thread(
            target=self._write, args=(moment, parts), daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait for what is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def forget(self) -> None:
        """Remove what is kept on this host: the run has gone back behind it."""
        self.wait()
        if self._store is not None:
            self._store.forget()

    def close(self) -> None:
        """Free the memory: the disk holds what a later start goes on from."""
        self.wait()
        if self._store is not None and self._runtime.local_rank == 0:
            self._store.close()

    def _write(self, moment: Moment, parts: dict[str, Saved]) -> None:
        data = {name: _serialised(part) for name, part in parts.items()}
        self._put(moment, data)
        if len(set(self._hosts)) > 1:
            arrived = send_to_partner(data, self._runtime.rank, self._hosts)
            self._put(moment, arrived)

    def _put(self, moment: Moment, data: dict[str, bytes]) -> None:
        if self._store is None:
            return
        try:
            for name, part in data.items():
                self._store.write(moment, name, part)
            if self._runtime.local_rank == 0:
                self._store.prune()
        except OSError as error:
            print(f"WARNING: no state is kept in memory: {error}", flush=True)
            self._store = None


def open_store(run_id: str) -> Store | None:
    """A run's store on this host; None, with a warning, where there can be none."""
    try:
        return Store(run_id)
    except OSError as error:
        print(f"WARNING: no state is kept in memory: {error}", flush=True)
        return None


def _serialised(part: Saved) -> bytes:
    data = io.BytesIO()
    torch.save({"format": checkpoint.FORMAT, **part}, data)
    return data.getvalue()
