"""Twelve real runs by grid and seeds through an engine with two slots.

    python -m tests.service.twelve local
    python -m tests.service.twelve slurm       a Slurm of this machine; needs root

Each run is stopped, resumed to its end and retried; both ends must be the same to the
bit, no more than two runs go at once, and none is started more often than asked for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from dathvd.service import record
from dathvd.service.observe import Observation, observe_all
from tests.processes import DATHVD, environment

ONE_MACHINE = Path(__file__).parents[2] / "launchers" / "slurm" / "one-machine.sh"
SLOTS = 2
WRONG = ("lost", "unknown", "failed", "stalled")
TRAIN = [
    "train", "--set", "data.name=synthetic", "--set", "data.image_size=8",
    "--set", "data.num_train=90", "--set", "data.num_test=30",
    "--set", "train.batch_size=32", "--set", "model.width=4",
    "--set", "train.log_every=5", "--set", "train.checkpoint_every=1000",
    "--set", "train.epochs=100", "--set", "attack.num_steps=2",
    "--set", "evaluation.attack.num_steps=2",
    "--set", "evaluation.pictures=false",
]  # fmt: skip


def dathvd(*words: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run([DATHVD, *words], capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def digest(run: Path) -> str:
    """The hash of the weights that a run ended with."""
    return str(json.loads((run / "result.json").read_text())["parameters_sha256"])


class Twelve:
    """Where each run stands on its way: stopped, resumed, finished, retried."""

    def __init__(self, runs: list[Path]) -> None:
        self.phase = {run: "first" for run in runs}
        self.copies: dict[Path, Path] = {}
        self.most_at_once = 0
        self.seen: Counter[str] = Counter()

    def look(self) -> bool:
        """Do what comes next for each run; whether all have come to their end."""
        folders = [*self.phase, *self.copies.values()]
        views = {Path(each.run): each for each in observe_all(folders)}
        assert len(views) == len(folders), "a run has vanished"
        states = Counter(each.state for each in views.values())
        wrong = [e.status for e in views.values() if e.state in WRONG]
        assert not wrong, wrong
        self.seen.update(states.keys())
        self.most_at_once = max(self.most_at_once, states["running"])
        for run in self.phase:
            self._advance(run, views)
        return all(phase == "over" for phase in self.phase.values())

    def _advance(self, run: Path, views: dict[Path, Observation]) -> None:
        phase, state = self.phase[run], views[run].state
        if phase == "first" and state == "running" and views[run].epoch:
            dathvd("stop", str(run))
            self.phase[run] = "stopping"
        elif phase == "stopping" and state == "stopped":
            assert views[run].status.reason == "with a checkpoint", views[run].status
            dathvd("resume", str(run))
            self.phase[run] = "resumed"
        elif phase == "resumed" and state == "finished":
            self.copies[run] = Path(dathvd("retry", str(run)).split()[-1])
            self.phase[run] = "retried"
        elif phase == "retried" and views[self.copies[run]].state == "finished":
            assert digest(run) == digest(self.copies[run])
            self.phase[run] = "over"


def main(engine: str, root: Path) -> None:
    """Run the twelve; say what was seen."""
    began = time.monotonic()
    runs = [
        Path(line)
        for line in dathvd(
            "submit", "--on", engine, "--root", str(root), "--group", "twelve",
            "--grid", "attack.epsilon=0.05,0.1,0.15,0.2", "--seeds", "0,1,2",
            "--", *TRAIN,
        ).split()
    ]  # fmt: skip
    assert len(set(runs)) == 12
    twelve = Twelve(runs)
    while not twelve.look():
        assert time.monotonic() - began < 3000, twelve.phase
        time.sleep(0.3)
    for run in runs:
        ends = [record.read_exit(run, attempt) for attempt in (1, 2, 3)]
        codes = [None if end is None else end.code for end in ends]
        assert codes == [75, 0, None], (run, codes)
    assert twelve.most_at_once <= SLOTS, twelve.most_at_once
    print(dathvd("compare", "--group", "twelve"))
    print(
        f"{engine}: 12 runs stopped, resumed and retried in "
        f"{time.monotonic() - began:.0f} s; at most {twelve.most_at_once} at once; "
        f"states seen: {', '.join(sorted(twelve.seen))}"
    )


def prepare(folder: Path, engine: str) -> None:
    """A queue, an index and, where asked for, a Slurm of this program's own."""
    os.environ.update(environment())
    os.environ["DATHVD_STATE"] = str(folder / "queue")
    os.environ["DATHVD_SLOTS"] = str(SLOTS)
    os.environ["DATHVD_DATABASE"] = f"sqlite:///{folder / 'runs.sqlite'}"
    os.environ["OMP_NUM_THREADS"] = "1"
    if engine == "slurm":
        words = [str(ONE_MACHINE), "up", str(folder / "slurm")]
        subprocess.run(words, check=True, env={**os.environ, "TASKS": str(SLOTS)})
        os.environ["SLURM_CONF"] = str(folder / "slurm" / "slurm.conf")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        prepare(Path(name), sys.argv[1])
        try:
            main(sys.argv[1], Path(name) / "runs")
        finally:
            if sys.argv[1] == "slurm":
                down = [str(ONE_MACHINE), "down", str(Path(name) / "slurm")]
                subprocess.run(down, timeout=60)
