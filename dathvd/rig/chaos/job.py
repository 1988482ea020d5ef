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

from dathvd import run_history
from dathvd.errors import UserError
from dathvd.rig.chaos.processes import kind_of, running, words_of
from dathvd.rig.chaos.victim import HOLD
from dathvd.rig.rig import Rig

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
    "evaluation.pictures": "false",
}
"""A run of 60 short steps in which all kinds of state matter: batch norm, what error
feedback owes, images prepared a step ahead."""
_DATHVD = (sys.executable, "-P", "-m", "dathvd")
_POLL = 0.005
_DEAD = 10.0  # seconds within which what is killed is gone


class Stopped(Exception):
    """The campaign was asked to stop while it waited for a job."""


def _never() -> bool:
    return False


@dataclass
class Job:
    """``dathvd launch`` of a few ranks in a folder of its own."""

    folder: Path
    size: int
    options: Sequence[str]
    """Of ``dathvd launch``, such as ``--max-restarts``."""
    environment: Mapping[str, str]
    rig: Rig | None = None
    """Whose hosts it runs on, the first one launching; None: on this machine."""
    elastic: bool = False
    """Whether the number of ranks follows a list of hosts."""
    asked: Callable[[], object] = _never
    """Whether the campaign was asked to stop: starts and waits then raise."""
    process: subprocess.Popen[bytes] | None = None
    codes: list[int] = field(default_factory=list)
    """Exit codes of the starts so far."""
    problems: list[str] = field(default_factory=list)
    """What a fault has found wrong while it struck."""

    @property
    def run_dir(self) -> Path:
        """The job's run folder."""
        return self.folder / "run"

    @property
    def output(self) -> Path:
        """All that the job has said."""
        return self.folder / "output.txt"

    def start(self) -> None:
        """Start, or start again: the same command.

        Raises:
            Stopped: the campaign was asked to stop.
        """
        # hosts with several ranks would else sum node by node, which no replay does
        on_hosts = {} if self.rig is None else {"compression.exchange": "two-way"}
        settings = [f"{name}={text}" for name, text in (SETTINGS | on_hosts).items()]
        words = [word for each in settings for word in ("--set", each)]
        # such as what has ranks sleep that wait, where many share a core
        loaded = ["LD_PRELOAD"] if "LD_PRELOAD" in os.environ else []
        names = dict.fromkeys((TOKEN, HOLD, *self.environment, *loaded))
        forward = [f"--env={name}" for name in names]
        launch = ["launch", *self._ranks(), *forward, *self.options, "--"]
        train = ["train", "--run-dir", str(self.run_dir), *words]
        command = [*_DATHVD, *launch, *train]
        if self.rig is not None:
            command = self.rig.command(self.rig.hosts[0], command)
        self.process = self._begin(command)

    def _begin(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """A command, marked as this job's, whose words go to ``output``."""
        if self.asked():
            raise Stopped
        own = {TOKEN: self.token, HOLD: str(self._hold)}
        with self.output.open("ab") as file:
            return subprocess.Popen(
                command,
                env={**_clean(os.environ), **self.environment, **own},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _ranks(self) -> list[str]:
        if not self.elastic:
            return ["-np", str(self.size)]
        if not self.hostfile.exists():
            self._offer_all()
        return ["--min-np", "1", "--hostfile", str(self.hostfile)]

    @property
    def hostfile(self) -> Path:
        """The list of hosts of an elastic job."""
        return self.folder / "hosts"

    def offer(self, slots: int) -> None:
        """Let an elastic job have so many ranks on this machine."""
        self._list_hosts({"localhost": slots})

    def offer_hosts(self, hosts: Sequence[str]) -> None:
        """Let an elastic job have these hosts of its rig."""
        assert self.rig is not None
        each = self.size // len(self.rig.hosts)
        self._list_hosts(dict.fromkeys(hosts, each))

    def _offer_all(self) -> None:
        if self.rig is None:
            self.offer(self.size)
        else:
            self.offer_hosts(self.rig.hosts)

    def _list_hosts(self, slots: Mapping[str, int]) -> None:
        lines = [f"{host} slots={number}\n" for host, number in slots.items()]
        draft = self.hostfile.with_suffix(".draft")
        draft.write_text("".join(lines), encoding="utf-8")
        draft.rename(self.hostfile)

    @property
    def _hold(self) -> Path:
        return self.folder / "hold"

    def hold_steps(self) -> None:
        """Have steps take a second each, until ``let_steps_go``."""
        self._hold.touch()

    def let_steps_go(self) -> None:
        """Have steps take their own time again."""
        self._hold.unlink(missing_ok=True)

    def workers(self) -> int:
        """How many train now; the job's size where none has begun."""
        with contextlib.suppress(UserError):
            if attempts := run_history.read(self.run_dir):
                return attempts[-1].size
        return self.size

    def replay(self, seconds: float) -> dict[str, Any] | None:
        """What a replay of the job's history ends with; None where it does not.

        Raises:
            Stopped: the campaign was asked to stop.
        """
        run = self.folder / "replayed"
        words = ["train", "--replay-history", str(self.run_dir), "--run-dir", str(run)]
        self.process = self._begin([*_DATHVD, *words])
        self._wait(seconds)
        self.kill()
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
        """Whether a condition came true before the job ended, and in that time.

        Raises:
            Stopped: the campaign was asked to stop.
        """
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while not condition():
            if self.asked():
                raise Stopped
            if self.process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        return self.process.poll() is None

    def end(self, seconds: float) -> int | None:
        """The exit code, None where it has not ended in that time.

        Raises:
            Stopped: the campaign was asked to stop.
        """
        if (code := self._wait(seconds)) is not None:
            self.codes.append(code)
        return code

    def _wait(self, seconds: float) -> int | None:
        assert self.process is not None
        self.wait_until(_never, seconds)
        return self.process.poll()

    def processes(self) -> list[psutil.Process]:
        """All that run for this job, on a rig too, but those that have ended."""
        there = [] if self.rig is None else self.rig.pids(keep=("sshd",))
        return running(f"{TOKEN}={self.token}", there)

    def of_kind(self, kind: str) -> list[psutil.Process]:
        """The processes of a kind: rank, companion, mpirun, keeper or launcher."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if kind_of(process) == kind:
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def left_after(self, seconds: float) -> list[str]:
        """What still runs so long after the job's end, in words."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [f"{process.pid} {words_of(process)[:60]}" for process in left]

    def kill(self) -> None:
        """End all that runs for this job, also what is just being started."""
        deadline = time.monotonic() + _DEAD
        while (left := self.processes()) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
            time.sleep(_POLL)
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
    # several jobs share the cores: ranks that wait leave them to the others
    shared = ("OMPI_MCA_rmaps_base_oversubscribe", "OMPI_MCA_mpi_yield_when_idle")
    return {**kept, **root, **dict.fromkeys(shared, "1")}
