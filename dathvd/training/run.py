"""A whole run: data in, run folder out."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dathvd import checkpoint, run_folder, run_history
from dathvd.compression import build_compressor
from dathvd.config import Config
from dathvd.distributed.hierarchical import Hierarchical
from dathvd.report.progress import Progress
from dathvd.report.tables import print_accuracy
from dathvd.runtime import AgreedError, Runtime, from_root, together
from dathvd.training.announce import announce
from dathvd.training.components import ignored_options
from dathvd.training.hot import HotState
from dathvd.training.hot import restore as restore_hot
from dathvd.training.loop import Loop
from dathvd.training.metrics import MetricsLog
from dathvd.training.prepare import Job, prepare
from dathvd.training.result import conclude
from dathvd.training.saver import looks_after_disk
from dathvd.training.saving import restore_newest
from dathvd.training.state import TrainingState
from dathvd.training.workers import build_state


def train(config: Config, run: Path | None, runtime: Runtime) -> bool:
    """Train, evaluate, and fill the run folder; every rank calls it.

    The same call again goes on from the newest checkpoint of the folder.

    Args:
        config: all that decides the result.
        run: the run folder; None makes a dated one under ``runs/``.
        runtime: this worker's place.

    Returns:
        True when the run is finished, False when it left early with a checkpoint.

    Raises:
        UserError: bad input; see the message.
    """
    job = prepare(config, run, runtime)
    state = build(job)
    run_id, attempts = _history(job)
    _go_on(state, job, run_id, attempts)
    if _was_finished(job):
        return True
    announce(state, job)
    _enter(state, job)
    hot = HotState(state, runtime, run_id, attempt=len(attempts))
    loop, seconds = _train(state, job, hot)
    if state.step < job.num_steps:
        job.say(f"left after step {state.step}; the same command goes on from there")
        return False
    conclude(state, job, seconds=seconds, num_images=loop.images)
    return True


def build(job: Job) -> TrainingState:
    """The state before the first step; every rank calls it."""
    job.say(f"run folder {job.folder}")
    job.say(job.runtime.describe())
    for line in ignored_options(job.config):
        job.say(line)
    there = checkpoint.find_checkpoints(job.folder) if job.runtime.is_root else []
    begins = from_root(job.runtime, not there)
    state = build_state(
        job.config, job.dataset, job.runtime, job.held_out, begins=begins
    )
    state.exchanger.warmup_steps = compression_warmup(job.config, job.num_steps)
    if job.held_out is not None:
        count = len(job.held_out)
        job.say(f"{count} training images are held out to be probed")
    return state


def compression_warmup(config: Config, total: int) -> int:
    """How many exchanges of a run of ``total`` steps come before compression."""
    share = config.compression.warmup
    if share is None:
        share = build_compressor(config.compression).warmup
    return round(share * total * config.attack.replays)


def _history(job: Job) -> tuple[str, list[run_history.Attempt]]:
    """The run's identity and its attempts so far, as rank 0 reads them."""

    def read() -> list[Any]:
        if not job.runtime.is_root:
            return []
        attempts = run_history.read(job.folder)
        return [run_history.identify(job.folder), [asdict(each) for each in attempts]]

    run_id, found = from_root(job.runtime, together(job.runtime, read))
    return run_id, [run_history.Attempt(**each) for each in found]


def _enter(state: TrainingState, job: Job) -> None:
    """Note in the run's history who goes on from which step."""
    actions = 0 if state.guard is None else state.guard.actions
    by_nodes = any(isinstance(each, Hierarchical) for each in state.exchanger.exchanges)
    attempt = run_history.Attempt(state.step, job.runtime.size, actions, by_nodes)
    root = job.runtime.is_root
    together(
        job.runtime,
        lambda: run_history.append(job.folder, attempt) if root else None,
    )


def _go_on(
    state: TrainingState,
    job: Job,
    run_id: str,
    attempts: list[run_history.Attempt],
) -> None:
    """Take over the newest state that is whole: in memory, else on disk."""
    if looks_after_disk(job.runtime):
        checkpoint.tidy(job.folder)
    names = checkpoint.find_checkpoints(job.folder) if job.runtime.is_root else []
    newest = from_root(job.runtime, checkpoint.step_of(names[-1]) if names else 0)
    moment = restore_hot(state, job.runtime, run_id, attempts, newest, job.folder)
    if moment is not None:
        job.say(f"going on from memory, step {moment.step} of {moment.size} workers")
        return
    found = restore_newest(state, job.folder, job.runtime)
    if found is not None:
        job.say(f"going on from {found}")
    elif job.config.model.init is not None and state.origin is None:
        raise AgreedError(
            f"run folder {job.folder}: its checkpoints went away as the run began; "
            "start it again"
        )


def _was_finished(job: Job) -> bool:
    """Whether the folder holds a result, which rank 0 then prints."""
    root = job.runtime.is_root
    result = together(
        job.runtime, lambda: run_folder.read_result(job.folder) if root else None
    )
    if result is not None:
        job.say("already finished; its result:")
        print_accuracy(result, title=str(job.folder))
    return from_root(job.runtime, result is not None)


def _train(state: TrainingState, job: Job, hot: HotState) -> tuple[Loop, float]:
    """Take the steps that are left, or until asked to leave; and the seconds taken."""
    silent = not job.runtime.is_root
    progress = Progress("train", job.num_steps, done=state.step, silent=silent)
    log = MetricsLog(job.folder, job.runtime, progress, state.step)
    loop, started = Loop(state, job, log, hot), time.perf_counter()
    try:
        loop.run()
    finally:
        progress.close()
        log.close()
    return loop, time.perf_counter() - started
