"""How far a job has come, as its run folder shows it to the launcher."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from dathvd import run_history

_CHECKPOINTS = "step-[0-9]*"


class Progress:
    """Failures in a row since the last new checkpoint.

    Args:
        run_dir: the run folder; None where the command has none.
    """

    def __init__(self, run_dir: Path | None) -> None:
        self._run_dir = run_dir
        self._newest = self._find()
        self._began = self._last(run_history.NAME)
        self._was_there = False
        self.failures = 0
        """Attempts that failed in a row, the first after a new checkpoint counted."""
        # a thread: a disk that hangs must not keep the launcher from its signals
        threading.Thread(target=self._wait_for_folder, daemon=True).start()

    def _wait_for_folder(self) -> None:
        """Note that the ranks have made the run folder, which may be lost later."""
        while self._run_dir is not None and not self._was_there:
            self._was_there = self._exists()
            time.sleep(0.02)  # a run may fail a moment after it made its folder

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self._newest is not None

    def look(self) -> None:
        """Look after an attempt: a failure with a new checkpoint is the first again."""
        newest = self._find()
        advanced = newest is not None and newest != self._newest
        began, self._began = self._began, self._last(run_history.NAME)
        advanced = advanced or self._began > began  # from a state in memory
        if newest is not None or self._exists():
            self._newest = newest
        self.failures = 1 if advanced else self.failures + 1

    def last_step(self) -> int:
        """The last step in the log of metrics, 0 where there is none to be read."""
        return self._last("metrics.jsonl")

    def _last(self, name: str) -> int:
        """The step in the last row of a file, 0 where there is none to be read."""
        if self._run_dir is None:
            return 0
        try:
            text = (self._run_dir / name).read_text(encoding="utf-8")
            return int(json.loads(text.splitlines()[-1])["step"])
        except (OSError, ValueError, LookupError, TypeError):
            return 0

    def folder_is_lost(self) -> bool:
        """Whether the run folder was there and is not, or has lost its checkpoints."""
        lost = self._newest is not None and self._find() is None
        return lost or (self._was_there and not self._exists())

    def describe(self) -> str:
        """What the next attempt begins with."""
        return f"checkpoint {self._newest}" if self._newest else "the beginning"

    def _exists(self) -> bool:
        return self._run_dir is not None and (self._run_dir / "config.yaml").exists()

    def _find(self) -> str | None:
        """The name of the newest checkpoint, None where there is none to be seen."""
        if self._run_dir is None:
            return None
        try:
            names = [p.name for p in (self._run_dir / "checkpoints").glob(_CHECKPOINTS)]
        except OSError:
            return None
        return max(names, default=None)
