"""A sweep: which points, where they are launched, and what came back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from dathvd.benchmark.speedup.plan import PLAIN, Overlap, Plan, Point
from dathvd.benchmark.speedup.rows import SweepRow
from dathvd.compression import COMPRESSORS, Exchange
from dathvd.compression.base import HIERARCHICAL, exchanges_of
from dathvd.config import Config
from dathvd.errors import UserError, choose
from dathvd.launch import (
    Host,
    LaunchOptions,
    launch_command,
    launch_environment,
)
from dathvd.launch.launchers import installed_launchers
from dathvd.rig import Rig
from dathvd.rig.network import bits_per_second

Say = Callable[[str], None]
Command = tuple[list[str], dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Sizes and points, and how long each is measured."""

    config: Config
    """``train.batch_size`` is that of one worker: the batch grows with the workers."""
    sizes: tuple[int, ...]
    points: tuple[Point, ...]
    warmup: int
    repeats: int
    seconds: float
    threads: int
    """CPU threads of each worker."""
    pin: bool
    timeout: float
    folder: Path
    """Where plans and rows are written; all hosts must see it."""
    per_host: int = 1
    """Workers on each host of a rig; a single worker is alone all the same."""

    @property
    def shared_workers(self) -> int:
        """Workers that one machine runs side by side without slowing one another."""
        return max(1, (os.cpu_count() or 1) // self.threads)

    def setting(self) -> dict[str, Any]:
        """What a reader must know of how the rows were measured."""
        return {
            "config": self.config.model_dump(mode="json"),
            "batch_size_per_worker": self.config.train.batch_size,
            "threads_per_worker": self.threads,
            "pinned": self.pin,
            "cores": os.cpu_count(),
            "order": "points take steps in turn, in another order each round",
        }

    def on_hosts(self, options: LaunchOptions, say: Say) -> list[SweepRow]:
        """Launch each number of workers by horovodrun, or by mpirun without it."""
        rows: list[SweepRow] = []
        for size in self.sizes:
            plan, out = self._write_plan(size, None)
            command, environment = self._launch(options, size, _worker(plan, out))
            say(f"measuring {size} workers")
            _run(command, environment, self.timeout, lambda: None)
            rows += read_rows(out)
        return rows

    def on_rig(
        self, rates: Sequence[str], say: Say, *, gloo: bool = False
    ) -> list[SweepRow]:
        """``per_host`` workers a host, over links of each of the rates.

        mpirun starts the ranks by the rig's own agent; over Gloo, horovodrun by ssh.
        """
        for rate in rates:
            bits_per_second(rate)  # a bad one is to be told now, not an hour later
        rows: list[SweepRow] = []
        odd = [size for size in self.sizes if size > 1 and size % self.per_host]
        if odd:
            raise UserError(f"--np: {odd[0]} workers are not {self.per_host} a host")
        with Rig.create(self._hosts(max(self.sizes)), ssh=gloo) as rig:
            for rate in rates:
                rig.set_rate(rate)
                for size in self.sizes:
                    if size == 1 and rate != rates[0]:
                        continue  # a single worker sends nothing
                    plan, out = self._write_plan(size, rate)
                    workers = "" if self.per_host == 1 else f"{size} workers on "
                    hosts = self._hosts(size)
                    say(f"measuring {workers}{hosts} hosts, links of {rate}")
                    start = self._on_rig_by_ssh if gloo else self._on_rig_by_mpirun
                    command, environment = start(rig, size, _worker(plan, out))
                    _run(command, environment, self.timeout, rig.kill)
                    rows += read_rows(out)
        return rows

    def _hosts(self, size: int) -> int:
        """The hosts of a rig that so many workers need."""
        return max(1, size // self.per_host)

    def _on_rig_by_mpirun(self, rig: Rig, size: int, worker: list[str]) -> Command:
        names = [word for name in self._threads() for word in ("-x", name)]
        each = min(size, self.per_host)
        command = rig.mpirun([*names, *worker], size=size, per_host=each)
        return command, {**os.environ, **self._threads()}

    def _on_rig_by_ssh(self, rig: Rig, size: int, worker: list[str]) -> Command:
        options = LaunchOptions(
            num_proc=size,
            hosts=tuple(
                Host(name, min(size, self.per_host))
                for name in rig.hosts[: self._hosts(size)]
            ),
            controller="gloo",
            network_interface="eth0",
        )
        command, environment = self._launch(options, size, worker)
        return rig.command(rig.hosts[0], command), environment

    def _launch(self, options: LaunchOptions, size: int, worker: list[str]) -> Command:
        """What starts the ranks, and its environment."""
        chosen = replace(options, num_proc=size)
        environment = launch_environment({**os.environ, **self._threads()}, chosen)
        command = launch_command(
            chosen, worker, installed=installed_launchers(), environment=environment
        )
        return command, environment

    def _write_plan(self, size: int, rate: str | None) -> tuple[Path, Path]:
        train = self.config.train
        batch = train.model_copy(update={"batch_size": train.batch_size * size})
        label = f"np{size}" + (f"-{rate}" if rate else "")
        plan = Plan(
            config=self.config.model_copy(update={"train": batch}),
            points=self.points if size > 1 else (),
            warmup=self.warmup,
            repeats=self.repeats,
            seconds=self.seconds,
            pin=self.pin,
            shared_machine=rate is not None,
            rate=rate,
        )
        path, out = self.folder / f"plan-{label}.json", self.folder / f"{label}.json"
        plan.save(path)
        out.unlink(missing_ok=True)
        return path.resolve(), out.resolve()

    def _threads(self) -> dict[str, str]:
        return {"OMP_NUM_THREADS": str(self.threads)}


def points_of(
    codecs: Sequence[str], exchanges: Sequence[str], overlaps: Sequence[Overlap]
) -> tuple[Point, ...]:
    """Every combination that exists; Horovod's own optimizer has only one.

    Args:
        codecs: names; ``sign:two-way`` gives a codec one exchange of its own.
        exchanges: names that the codecs without one of their own are combined with.
        overlaps: overlap modes that every codec is combined with.

    Raises:
        UserError: an unknown codec or exchange, or a codec that none of the exchanges
            can carry.
    """
    found: list[Point] = []
    known = dict.fromkeys(("auto", *get_args(Exchange), HIERARCHICAL))
    for entry in codecs:
        if entry == PLAIN:
            found.append(Point(PLAIN, "allreduce", "none"))
            continue
        codec, _, own = entry.partition(":")
        kind = choose("--codecs", codec, {**COMPRESSORS, PLAIN: None})
        assert kind is not None
        asked = [own] if own else exchanges
        for exchange in asked:
            choose("--exchanges", exchange, known)
        carriers = exchanges_of(kind)
        usable = [e for e in asked if e == "auto" or e in carriers]
        if not usable:
            raise UserError(
                f"--exchanges: {codec} needs one of auto, {', '.join(carriers)}"
            )
        found += [Point(codec, e, overlap) for e in usable for overlap in overlaps]
    return tuple(found)


def read_rows(path: Path) -> list[SweepRow]:
    """The rows that rank 0 wrote.

    Raises:
        UserError: rank 0 wrote none.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{path}: the ranks have left no rows there; is it a folder that the "
            "first host sees too?"
        ) from None
    return [
        SweepRow(**{**r, "traffic": {k: tuple(v) for k, v in r["traffic"].items()}})
        for r in records
    ]


def _worker(plan: Path, out: Path) -> list[str]:
    module = "dathvd.benchmark.speedup.worker"
    return [sys.executable, "-m", module, str(plan), str(out)]


def _run(
    command: Sequence[str],
    environment: dict[str, str],
    timeout: float,
    clean_up: Callable[[], None],
) -> None:
    """Run a launcher to its end.

    Raises:
        UserError: it failed, or took longer than ``timeout`` seconds.
    """
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=timeout)
    except BaseException as error:
        _end(process)
        clean_up()
        if isinstance(error, subprocess.TimeoutExpired):
            raise UserError(f"a launch took more than {timeout:.0f} s") from None
        raise
    if process.returncode:
        raise UserError(f"a launch failed: {_reason(said)}")


def _end(process: subprocess.Popen[str]) -> None:
    """End the launcher and, after a moment's grace, its whole session."""
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _reason(said: str) -> str:
    """The line that says why: the error of a rank if there is one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.partition("error: ")[2] for line in lines if "dathvd: error" in line]
    return (errors or lines or ["no message"])[0 if errors else -1]
