"""One job of the campaign: started, looked at, waited for, ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from dathvd.launch.tree import WORKER

TOKEN = "DATHVD_CHAOS_JOB"
"""The environment variable by which all processes of a job are found."""
STEPS = 60
SETTINGS = {
    "model.name": "dathvd.rig.chaos.victim:network",
    "data.name": "synthetic",
    "data.image_size": "8",
    "data.num_train": "90",
    "data.num_test": "30",
    "train.batch_size": "32",
    "train.epochs": str(STEPS // 3),
    "train.log_every": "1",
    "train.checkpoint_every": "4",
    "train.check_every": "5",
    "train.overlap": "attack",
    "attack.num_steps": "2",
    "compression.name": "int8",
    "compression.warmup": "0",
    "evaluation.batch_size": "8",
    "evaluation.attack.num_steps": "4",
}
"""A run of 60 short steps in which all kinds of state matter: batch norm, what error
feedback owes, images prepared a step ahead."""
_POLL = 0.005


@dataclass
class Job:
    """``dathvd launch`` of a few ranks in a folder of its own."""

    folder: Path
    size: int
    options: Sequence[str]
    """Of ``dathvd launch``, such as ``--max-restarts``."""
    environment: Mapping[str, str]
    prefix: Sequence[str] = ()
    """What comes before the command, such as entering a host of a rig."""
    elastic: bool = False
    """Whether the number of ranks follows a list of hosts."""
    process: subprocess.Popen[bytes] | None = None
    codes: list[int] = field(default_factory=list)
    """Exit codes of the starts so far."""

    @property
    def run_dir(self) -> Path:
        """The job's run folder."""
        return self.folder / "run"

    @property
    def output(self) -> Path:
        """All that the job has said."""
        return self.folder / "output.txt"

    def start(self) -> None:
        """Start, or start again: the same command."""
        settings = [f"{name}={value}" for name, value in SETTINGS.items()]
        words = [word for each in settings for word in ("--set", each)]
        forward = [f"--env={name}" for name in (TOKEN, *self.environment)]
        launch = ["launch", *self._ranks(), *forward, *self.options, "--"]
        train = ["train", "--run-dir", str(self.run_dir), *words]
        self.process = self._begin([*launch, *train])

    def _begin(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        """A command of dathvd, marked as this job's, whose words go to ``output``."""
        with self.output.open("ab") as file:
            return subprocess.Popen(
                [*self.prefix, sys.executable, "-P", "-m", "dathvd", *words],
                env={**_clean(os.environ), **self.environment, TOKEN: self.token},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _ranks(self) -> list[str]:
        if not self.elastic:
            return ["-np", str(self.size)]
        if not self.hostfile.exists():
            self.offer(self.size)
        return ["--min-np", "1", "--hostfile", str(self.hostfile)]

    @property
    def hostfile(self) -> Path:
        """The list of hosts of an elastic job."""
        return self.folder / "hosts"

    def offer(self, slots: int) -> None:
        """Let an elastic job have so many ranks."""
        draft = self.hostfile.with_suffix(".draft")
        draft.write_text(f"localhost slots={slots}\n", encoding="utf-8")
        draft.rename(self.hostfile)

    def replay(self, seconds: float) -> dict[str, Any] | None:
        """What a replay of the job's history ends with; None where it does not."""
        run = self.folder / "replayed"
        words = ["train", "--replay-history", str(self.run_dir), "--run-dir", str(run)]
        process = self._begin(words)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return _read_result(run)

    @property
    def token(self) -> str:
        """What marks this job's processes."""
        return str(self.folder)

    def said(self) -> str:
        """All that the job has said."""
        if not self.output.exists():
            return ""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def steps(self) -> int:
        """How many steps are in the log of metrics."""
        with contextlib.suppress(OSError):
            return (self.run_dir / "metrics.jsonl").read_bytes().count(b"\n")
        return 0

    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        return sorted((self.run_dir / "checkpoints").glob("step-*"))

    def result(self) -> dict[str, Any] | None:
        """What the run ended with, if it has."""
        return _read_result(self.run_dir)

    def wait_until(self, condition: Callable[[], object], seconds: float) -> bool:
        """Whether a condition came true before the job ended, and in that time."""
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        return self.process.poll() is None

    def end(self, seconds: float) -> int | None:
        """The exit code, None where it has not ended in that time."""
        assert self.process is not None
        try:
            self.codes.append(self.process.wait(seconds))
        except subprocess.TimeoutExpired:
            return None
        return self.codes[-1]

    def processes(self) -> list[psutil.Process]:
        """All that run for this job, but those that have ended."""
        mark, found = f"{TOKEN}={self.token}".encode(), []
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.Error):
                if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    process = psutil.Process(pid)
                    if process.status() != psutil.STATUS_ZOMBIE:
                        found.append(process)
        return found

    def of_kind(self, kind: str) -> list[psutil.Process]:
        """The processes of a kind: rank, companion, mpirun, keeper or launcher."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if _kind(process) == kind:
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def left_after(self, seconds: float) -> list[str]:
        """What still runs so long after the job's end, in words."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [f"{process.pid} {_words(process)[:60]}" for process in left]

    def kill(self) -> None:
        """End all that runs for this job."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()


def _read_result(run: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((run / "result.json").read_text(encoding="utf-8")))
    return None


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what a launcher above this process has set."""
    ours = ("OMPI_", "PMIX_", "PMI_", "HOROVOD_", "DATHVD_HEARTBEAT")
    kept = {name: text for name, text in environ.items() if not name.startswith(ours)}
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**kept, **root, "OMPI_MCA_rmaps_base_oversubscribe": "1"}


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return "?"


def _kind(process: psutil.Process) -> str:
    words = process.cmdline()
    if process.name() == "mpirun":
        return "mpirun"
    if words[1 : 1 + len(WORKER)] == WORKER:
        return "companion"
    if "dathvd.launch.keeper" in words:
        return "keeper"
    if words[2:4] == ["-m", "dathvd"]:
        return "launcher" if words[4:5] == ["launch"] else "rank"
    return "other"
