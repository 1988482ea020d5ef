"""One round: a job, a fault, what an operator would do, and the judgement."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from dathvd.checkpoint import load_file
from dathvd.errors import TEMPORARY_FAILURE
from dathvd.rig.chaos.fault import Fault
from dathvd.rig.chaos.faults import FAULTS, ordered
from dathvd.rig.chaos.job import STEPS, Job
from dathvd.rig.rig import Rig

OPTIONS = ("--max-restarts", "3", "--stall-limit", "3", "--grace", "20")
_HOT = ("--hot-every", "7")
_STARTS = 4
"""How often the same command is given before a job counts as one that cannot end."""
_GONE = 12.0
"""Seconds after the end within which the last process must be gone."""
_LOOK = 0.02  # seconds
_KEYS = ("parameters_sha256", "clean_accuracy", "robust_accuracy", "num_workers")


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run ends with, and how long it takes."""

    result: dict[str, Any]
    seconds: float
    to_first_step: float


@dataclass
class Verdict:
    """What came of one round."""

    number: int
    fault: str
    size: int
    moment: str
    struck: bool = False
    """Whether the job still ran at that moment."""
    codes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    pause: float | None = None
    """The longest time after the fault in which the run came no step further; None
    where none was to come."""
    problems: list[str] = field(default_factory=list)
    """Empty where all was as it should be."""


def reference_of(job: Job, limit: float) -> Reference:
    """Run a job undisturbed.

    Raises:
        RuntimeError: it did not end well.
        Stopped: the campaign was asked to stop.
    """
    started = time.monotonic()
    try:
        job.start()
        job.wait_until(lambda: job.steps() > 0, limit)
        first = time.monotonic() - started
        code, result = job.end(limit), job.result()
    finally:
        job.kill()
    if code != 0 or result is None:
        raise RuntimeError(f"the undisturbed run ended with {code}:\n{job.said()}")
    return Reference(_kept(result), time.monotonic() - started, first)


def play(
    number: int,
    name: str,
    size: int,
    random: Random,
    folder: Path,
    known: Reference,
    asked: Callable[[], object],
) -> Verdict:
    """Play a round and judge it; the folder is left for whoever looks into it.

    Args:
        number: the round's.
        name: of the fault.
        size: how many ranks.
        random: decides the moment and the victim.
        folder: an empty one, of this round alone.
        known: how a job of so many ranks ends undisturbed.
        asked: whether to stop.

    Raises:
        Stopped: it was asked to stop; nothing of the round is left running.
    """
    fault = FAULTS[name]
    with _disk(folder, fault), _hosts(fault) as rig:
        options = (*OPTIONS, *random.choice([(), _HOT]))
        environment = fault.environment(folder)
        if rig is not None:
            size = max(1, size // fault.hosts) * fault.hosts
        job = Job(folder, size, options, environment, rig, fault.elastic, asked)
        started = time.monotonic()
        phase = random.choice(fault.phases)
        verdict = Verdict(number, name, size, phase)
        try:
            _play(job, fault, verdict, random, known)
        finally:
            job.kill()
        verdict.codes, verdict.seconds = job.codes, time.monotonic() - started
        verdict.problems += job.problems
    return verdict


def _play(
    job: Job, fault: Fault, verdict: Verdict, random: Random, known: Reference
) -> None:
    limit = 60 + 8 * known.seconds
    job.start()
    verdict.struck = _wait_for_moment(job, fault, verdict, random, known, limit)
    if not verdict.struck:
        _see_to_end(job, fault, verdict, random, known, limit)
        return
    with _pause_noted(job, verdict):
        fault.strike(job, random)
        _see_to_end(job, fault, verdict, random, known, limit)


def _see_to_end(
    job: Job,
    fault: Fault,
    verdict: Verdict,
    random: Random,
    known: Reference,
    limit: float,
) -> None:
    """Wait for the end, and give the same command again where that is called for."""
    for _ in range(_STARTS):
        code = job.end(limit)
        if code is None:
            verdict.problems.append(f"hung: no end within {limit:.0f} s")
            return
        verdict.problems += [f"left running: {one}" for one in job.left_after(_GONE)]
        verdict.problems += judge_end(job, code, fault, verdict.struck)
        if code == 0:
            verdict.problems += _judge_run(job)
            if fault.elastic:
                verdict.problems += _judge_replay(job, limit)
            elif fault.skips and verdict.struck and not ordered(job.folder):
                verdict.problems += _judge_skips(job, fault.skips)
            else:
                verdict.problems += _judge_result(job, known)
            return
        fault.mend(job, random)
        job.start()
    verdict.problems.append(f"unfinished after {_STARTS} starts")


@contextlib.contextmanager
def _pause_noted(job: Job, verdict: Verdict) -> Iterator[None]:
    """Note how long the run comes no step further within the block, at the longest."""
    struck, farthest, over = time.monotonic(), job.steps(), threading.Event()

    def look() -> None:
        longest, since, best = 0.0, struck, farthest
        while best < STEPS and not over.wait(_LOOK):
            # ranks whose launcher is gone may take a few more steps before they end
            if (steps := job.steps()) > best:
                now = time.monotonic()
                longest, since, best = max(longest, now - since), now, steps
                verdict.pause = longest

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _wait_for_moment(
    job: Job,
    fault: Fault,
    verdict: Verdict,
    random: Random,
    known: Reference,
    limit: float,
) -> bool:
    """Whether the moment to strike has come before the job's end."""
    if verdict.moment == "start":
        seconds = random.uniform(0, known.to_first_step)
        verdict.moment = f"{seconds:.1f} s after the start"
        until = time.monotonic() + seconds
        return job.wait_until(lambda: time.monotonic() > until, limit)
    if verdict.moment == "evaluation":
        judged = job.run_dir / "judged"
        return job.wait_until(judged.exists, limit)
    # a host that is to be taken again needs steps that are left to train
    step = random.randrange(1, STEPS // 2 if fault.hosts else STEPS)
    verdict.moment = f"step {step}"
    return job.wait_until(lambda: job.steps() >= step, limit)


def judge_end(job: Job, code: int, fault: Fault, struck: bool) -> list[str]:
    """What is wrong with how one start ended."""
    problems = []
    allowed = fault.codes if struck else {0}
    if TEMPORARY_FAILURE in allowed and not job.said():
        # what a signal reaches before its first line of Python cannot answer it
        allowed = {*allowed, -signal.SIGTERM, -signal.SIGUSR1}
    if code not in allowed:
        problems.append(f"exit code {code}")
    if code == TEMPORARY_FAILURE and not job.checkpoints():
        problems.append(f"exit code {code} without a checkpoint")
    if code != 0 and job.result() is not None:
        problems.append(f"exit code {code} though the run is finished")
    told = any(
        start in job.said() for start in ("dathvd: error: ", "dathvd: stopped by ")
    )
    if code in (1, 2) and not told:
        problems.append(f"exit code {code} without a word")
    if "Traceback" in job.said():
        problems.append("a traceback instead of one line")
    return problems


def _judge_result(job: Job, known: Reference) -> list[str]:
    """How a run differs from the undisturbed one."""
    ended = _kept(job.result() or known.result)
    return [
        f"{key} differs: {value}, undisturbed {known.result[key]}"
        for key, value in ended.items()
        if value != known.result[key]
    ]


def _judge_skips(job: Job, expected: int) -> list[str]:
    """What is wrong with a run in which so many steps had to be skipped."""
    last = (job.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    skipped = json.loads(last)["skipped_steps"]
    problems = []
    if skipped != expected:
        problems.append(f"{skipped} steps were skipped, expected {expected}")
    weights = load_file(job.checkpoints()[-1] / "model.pt")["model"]
    unsound = [name for name, each in weights.items() if not each.isfinite().all()]
    return problems + [f"{name} is not finite" for name in unsound]


def _judge_run(job: Job) -> list[str]:
    """What is wrong with the run folder of a run that says it is finished."""
    if job.result() is None:
        return ["exit code 0 without a result"]
    problems = []
    lines = (job.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    if steps != list(range(1, STEPS + 1)):
        problems.append(f"metrics.jsonl holds {len(steps)} rows of {STEPS} steps")
    folder = job.run_dir / "checkpoints"
    left = [each.name for each in folder.iterdir() if each.name.endswith(".writing")]
    problems += [f"left behind: {name}" for name in left]
    return problems


def _judge_replay(job: Job, limit: float) -> list[str]:
    """What is wrong with a job whose membership changed."""
    result, again = job.result(), job.replay(limit)
    if result is None or again is None:
        return ["the history cannot be replayed"]
    # workers that came after the last step have judged, and no step is theirs
    workers = result["num_workers"]
    if _kept(result) != {**_kept(again), "num_workers": workers}:
        return [f"the replay differs: {_kept(again)}, the job {_kept(result)}"]
    return []


def _kept(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in _KEYS}


@contextlib.contextmanager
def _hosts(fault: Fault) -> Iterator[Rig | None]:
    """Hosts of the job's own, where the fault needs them."""
    if not fault.hosts:
        yield None
        return
    with Rig.create(fault.hosts, ssh=True) as rig:
        yield rig


@contextlib.contextmanager
def _disk(folder: Path, fault: Fault) -> Iterator[None]:
    """A small disk of its own under the run folder, where the fault needs one."""
    if not fault.disk_bytes:
        yield
        return
    disk = folder / "disk"
    disk.mkdir()
    size = f"size={fault.disk_bytes}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "chaos", disk], check=True)
    (folder / "run").symlink_to(disk / "run")
    (disk / "run").mkdir()
    try:
        yield
    finally:
        while os.path.ismount(disk):  # a read-only view may lie over it
            subprocess.run(["umount", "--lazy", disk], check=True)
