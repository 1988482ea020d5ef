"""Submitting, stopping, resuming and retrying runs.

A submission is three steps: the job is written into the run folder, handed to the
engine, and the engine's own id is written down. Whatever ends the process in between
leaves something that ``observe`` reads rightly and ``hand_over`` can complete, as the
job's name at the engine follows from the record.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import click

from dathvd.config import Config, load_config
from dathvd.errors import UserError, nearest
from dathvd.files import explain_os_errors, make_folder
from dathvd.run_folder import versions
from dathvd.service import record
from dathvd.service.comparison import flatten
from dathvd.service.engines import ENGINES, build_engine
from dathvd.service.engines.base import Submitted
from dathvd.service.observe import observe_all
from dathvd.service.status import ENDED, Status

COMMANDS = ("train", "evaluate", "sanity", "pseudo-label")
"""The commands of ``dathvd`` that can be submitted."""


@dataclass(frozen=True)
class Request:
    """What is submitted, and where it is to run."""

    arguments: tuple[str, ...]
    """A command of ``dathvd`` and its arguments, such as ``("train", "--set", …)``."""
    engine: str = "local"
    num_proc: int = 1
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of the engine."""
    root: Path = Path("runs")
    """Where run folders are made."""
    run: Path | None = None
    """The run folder; None makes one below ``root``."""
    group: str | None = None
    after: Path | None = None
    """A run that must be finished first."""


def submit(request: Request) -> Path:
    """Submit one job; its run folder, absolute.

    Raises:
        UserError: the request is not valid, or the engine refuses it.
        Unreachable: the engine did not answer; the job is written down and can be
            resumed.
    """
    config = check(request)
    run = _make_run_folder(request, config)
    with _lock(run):
        there = record.read_job(run)
        if there is not None:
            raise UserError(
                f"run folder {run}: holds a job already; dathvd resume {run} goes on "
                "with it"
            )
        job = record.new_job(
            engine=request.engine,
            num_proc=request.num_proc,
            arguments=request.arguments,
            options=dict(request.options),
            config=None if config is None else config.model_dump(mode="json"),
            group=request.group,
            after=None if request.after is None else str(request.after.absolute()),
            folder=os.getcwd(),
            versions=versions(),
        )
        record.write_job(run, job)
        try:
            hand_over(run, job)
        except UserError:
            (run / record.JOB_FILE).unlink()  # refused: there is no such job
            raise
    return run


def hand_over(run: Path, job: record.Job) -> None:
    """Give the attempt to its engine, unless that has it, and write its id down."""
    engine = build_engine(job.engine)
    found = engine.find(run, job)
    if found is None:
        found = engine.submit(run, job) if job.attempt == 1 else engine.resume(run, job)
    record.write_id(run, job.attempt, found)


def complete(run: Path) -> bool:
    """Hand over a job whose submission was cut off; whether it had to be done.

    Raises:
        UserError: the engine refuses it.
        Unreachable: the engine did not answer.
    """
    with _lock(run):  # held as long as the submission goes on
        job = record.read_job(run)
        if job is None or record.read_id(run, job.attempt) is not None:
            return False
        hand_over(run, job)
        return True


def stop(run: Path, *, now: bool = False) -> Status:
    """Ask for the end of the run's attempt; the state in which it was.

    Args:
        run: the run folder.
        now: end it without saving.

    Raises:
        UserError: the run holds no job.
        Unreachable: the engine did not answer; the request is written down, and the
            attempt ends when its watcher sees it.
    """
    with _lock(run):
        job, status = _known(run)
        if status.state in ENDED:
            return status
        record.write_stop(run, job.attempt, now=now)
        engine_id = record.read_id(run, job.attempt)
        submitted = Submitted(run, job, engine_id.id if engine_id else None)
        build_engine(job.engine).stop(submitted, now=now)
        return status


def resume(run: Path) -> record.Job:
    """Start a further attempt of a run that ended, from its last checkpoint.

    Raises:
        UserError: the run is finished, or has not ended.
        Unreachable: the engine did not answer.
    """
    with _lock(run):
        job, status = _known(run)
        if status.state == "finished":
            raise UserError(f"{run}: it is finished; dathvd retry runs it anew")
        if status.state not in ENDED:
            raise UserError(f"{run}: it is {status.state}; stop it first")
        again = _next_attempt(job)
        record.write_job(run, again)
        hand_over(run, again)
        return again


def _next_attempt(job: record.Job) -> record.Job:
    """The job with the next attempt's number, submitted now and here."""
    kept = job.model_dump(exclude={"attempt", "submitted_at", "submitted_by", "host"})
    kept["versions"] = versions()
    return record.new_job(**kept, attempt=job.attempt + 1)


def retry(run: Path) -> Path:
    """Run a job anew, from its beginning, in a folder beside the old one.

    Raises:
        UserError: the run holds no job, or has not ended.
    """
    job, status = _known(run)
    if status.state not in ENDED:
        raise UserError(f"{run}: it is {status.state}; stop it first")
    with _working_folder(job.folder):
        return submit(
            Request(
                job.arguments,
                engine=job.engine,
                num_proc=job.num_proc,
                options=job.options,
                run=_unused(run.with_name(f"{run.name}-retry")),
                group=job.group,
                after=Path(job.after) if job.after else None,
            )
        )


def expand(
    arguments: Sequence[str], grid: Sequence[str], seeds: Sequence[int]
) -> list[tuple[str, ...]]:
    """The arguments of every point of a grid.

    Args:
        arguments: of ``train``.
        grid: each ``section.field=value,value,…``.
        seeds: each becomes ``seed=…``.

    Raises:
        UserError: an entry of the grid is not of that form.
    """
    axes: list[list[str]] = []
    for entry in grid:
        name, equals, values = entry.partition("=")
        words = [word.strip() for word in values.split(",") if word.strip()]
        if not equals or not name.strip() or not words:
            raise UserError(
                f"--grid {entry}: write section.field=value,value such as "
                "attack.epsilon=4/255,8/255"
            )
        axes.append([f"{name.strip()}={word}" for word in words])
    if seeds:
        axes.append([f"seed={seed}" for seed in seeds])
    return [
        (*arguments, *itertools.chain.from_iterable(("--set", each) for each in point))
        for point in itertools.product(*axes)
    ]


def new_group() -> str:
    """A name for a group of runs."""
    return f"grid-{uuid.uuid4().hex[:8]}"


def check(request: Request) -> Config | None:
    """The configuration of a training; None for other commands.

    Raises:
        UserError: the request is not valid.
    """
    if request.engine not in ENGINES:
        raise UserError(f"--on {request.engine}: {nearest(request.engine, ENGINES)}")
    known = build_engine(request.engine).option_names
    for name in request.options:
        if name not in known:
            raise UserError(
                f"--option {name}: {request.engine} has no such option "
                f"{nearest(name, known)}"
            )
    if not request.arguments:
        raise UserError("nothing to submit; end with the command, such as: -- train")
    command = request.arguments[0]
    if command not in COMMANDS:
        raise UserError(f"submit {command}: {nearest(command, COMMANDS)}")
    if request.after is not None and record.read_job(request.after) is None:
        raise UserError(f"--after {request.after}: it holds no job")
    if command != "train":
        return None
    return load_config(*_config_of(request.arguments[1:]))


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """What a training changes of the defaults, as ``section.field=value``.

    Raises:
        UserError: the command is not a training that can be written so.
    """
    if arguments[:1] != ("train",):
        raise UserError("a server takes trainings; end with: -- train --set …")
    config_file, overrides = _config_of(arguments[1:])
    if config_file is None:
        return list(overrides)
    tree = load_config(config_file, overrides).model_dump(mode="json")
    usual = flatten(Config().model_dump(mode="json"))
    changed = {k: v for k, v in flatten(tree).items() if v != usual.get(k)}
    return [f"{name}={json.dumps(value)}" for name, value in changed.items()]


def _config_of(arguments: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """``--config`` and ``--set`` among the arguments of ``train``.

    Raises:
        UserError: an argument is not one of ``train``'s.
    """
    names = {"--config": False, "--set": True, "--run-dir": False}
    options = [click.Option([name], multiple=many) for name, many in names.items()]
    try:
        context = click.Command("train", params=[*options]).make_context(
            "train", list(arguments)
        )
    except click.UsageError as error:
        raise UserError(f"train: {error.format_message()}") from None
    if context.params.get("run_dir"):
        raise UserError("train: give the run folder to submit, as --run-dir before --")
    return context.params["config"], context.params["set"]


def _make_run_folder(request: Request, config: Config | None) -> Path:
    if request.run is not None:
        make_folder(request.run)
        return request.run.absolute()
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    what = [request.arguments[0]]
    if config is not None:
        what = [config.data.name, config.attack.name]
    make_folder(request.root)
    return _unused(request.root.absolute() / "-".join([stamp, *what]))


def _unused(wanted: Path) -> Path:
    """Make a folder that was not there: the wanted one, else with a number behind."""
    for number in itertools.count(1):
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        with explain_os_errors("create folder", path):
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
    raise AssertionError


def _known(run: Path) -> tuple[record.Job, Status]:
    job = record.read_job(run)
    if job is None:
        raise UserError(f"{run}: it holds no job that was submitted")
    return job, observe_all([run])[0].status


@contextlib.contextmanager
def _lock(run: Path) -> Iterator[None]:
    """One submission, stop or resume of a run at a time."""
    make_folder(run / "job")
    with explain_os_errors("lock", run / "job"):
        file = (run / "job" / "lock").open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _working_folder(folder: str) -> Iterator[None]:
    before = os.getcwd()
    with explain_os_errors("enter", Path(folder)):
        os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
