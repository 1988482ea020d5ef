"""What the run folders and the engines say of jobs, now."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dathvd.errors import UserError
from dathvd.service import record
from dathvd.service.engines import build_engine
from dathvd.service.engines.base import Submitted, Unreachable, View
from dathvd.service.status import Evidence, Status, decide

_TAIL = 64 * 1024  # bytes of metrics.jsonl that are read


@dataclass(frozen=True)
class Observation:
    """One job: its state and what people want to know first."""

    run: str
    """The run folder, absolute."""
    job: record.Job
    status: Status
    progress: float | None = None
    """The share of the training that is done, in [0, 1]."""
    epoch: float | None = None
    remaining_seconds: float | None = None
    """Until the training's end, at the speed of the last rows of metrics."""
    images_per_second: float | None = None
    clean_accuracy: float | None = None
    """Of the result, or of the last training batches before there is one."""
    robust_accuracy: float | None = None

    @property
    def state(self) -> str:
        """The state's name."""
        return self.status.state

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            **asdict(self) | {"job": self.job.model_dump(mode="json")},
        }


def observe(run: Path) -> Status:
    """The state of the job of one run folder; a run without a job counts as lost.

    Raises:
        UserError: the job's record cannot be read.
    """
    found = observe_all([run])
    return found[0].status if found else Status("lost", f"{run} holds no job")


def observe_all(runs: Iterable[Path]) -> list[Observation]:
    """Observe every run folder that holds a job, with one question for each engine.

    A folder that cannot be read, or whose record is damaged, is left out.
    """
    submitted = [found for run in runs if (found := _submitted(run)) is not None]
    views = _ask_engines(submitted)
    now = time.time()
    return [_observation(each, views[each.run], now) for each in submitted]


def _submitted(run: Path) -> Submitted | None:
    try:
        job = record.read_job(run)
        if job is None:
            return None
        engine_id = record.read_id(run, job.attempt)
    except UserError:
        return None
    return Submitted(run, job, engine_id.id if engine_id else None)


Answer = View | Unreachable | None


def _ask_engines(submitted: list[Submitted]) -> dict[Path, Answer]:
    """What the engines say; those of attempts that ended need not be asked."""
    answers: dict[Path, Answer] = {}
    by_engine: dict[str, list[Submitted]] = defaultdict(list)
    for each in submitted:
        answers[each.run] = None
        if not _has_exit(each):
            by_engine[each.job.engine].append(each)
    for name, jobs in by_engine.items():
        views: dict[str, View | Unreachable] = {}
        try:
            views = build_engine(name).view_all(jobs)
        except (Unreachable, UserError) as error:
            views = {each.job.uuid: Unreachable(str(error)) for each in jobs}
        for each in jobs:
            answers[each.run] = views.get(each.job.uuid)
    return answers


def _has_exit(each: Submitted) -> bool:
    return (each.run / "job" / f"exit-{each.job.attempt}.json").exists()


def _observation(each: Submitted, answer: Answer, now: float) -> Observation:
    run, job = each.run, each.job
    rows, written = _last_rows(run)
    result = read_result(run)
    started = job.submitted_at
    epochs = _epochs(job)
    epoch = rows[-1].get("epoch") if rows else None
    trained = epoch is not None and epochs is not None and epoch >= epochs
    times = _row_times(rows, written, started) if not trained else ()
    try:
        engine_id = record.read_id(run, job.attempt)
        stop = record.read_stop(run, job.attempt)
        end = record.read_exit(run, job.attempt)
    except UserError as error:
        status = Status("unknown", str(error), now)
        return Observation(str(run), job, status)
    unreachable = answer if isinstance(answer, Unreachable) else None
    seen = Evidence(
        job,
        engine_id=engine_id,
        stop=stop,
        exit=end,
        has_result=result is not None,
        has_checkpoint=_has_checkpoint(run),
        row_times=times,
        view=answer if isinstance(answer, View) else None,
        unreachable=str(unreachable) if unreachable else None,
        unreachable_since=now if unreachable else None,
    )
    last = rows[-1] if rows else {}
    speed = _epochs_per_second(rows)
    left = None
    if speed and epochs is not None and epoch is not None and not trained:
        left = (epochs - epoch) / speed
    shown = result or last
    return Observation(
        str(run),
        job,
        decide(seen, now),
        progress=min(epoch / epochs, 1.0) if epochs and epoch is not None else None,
        epoch=epoch,
        remaining_seconds=left,
        images_per_second=last.get("images_per_second"),
        clean_accuracy=shown.get("clean_accuracy"),
        robust_accuracy=shown.get("robust_accuracy"),
    )


def _epochs(job: record.Job) -> float | None:
    train = (job.config or {}).get("train", {})
    epochs = train.get("epochs")
    return float(epochs) if epochs else None


def _last_rows(run: Path) -> tuple[list[dict[str, Any]], float]:
    """The last whole rows of metrics, and when the file was written."""
    file = run / "metrics.jsonl"
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            written = file.stat().st_mtime
            stream.seek(max(0, size - _TAIL))
            lines = stream.read().decode(errors="replace").split("\n")
    except OSError:
        return [], 0.0
    rows = []
    for line in lines[1 if size > _TAIL else 0 :]:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows, written


def last_row(run: Path) -> dict[str, Any]:
    """The newest row of metrics; empty where there is none."""
    rows, _ = _last_rows(run)
    return rows[-1] if rows else {}


def _row_times(
    rows: list[dict[str, Any]], written: float, started: float
) -> tuple[float, ...]:
    """When each row was written: the last one with the file, each ``seconds`` later
    than the one before it. Rows of an earlier attempt do not count."""
    times, when = [], written
    for row in reversed(rows):
        if when < started:
            break
        times.append(when)
        when -= float(row.get("seconds", 0.0))
    return tuple(reversed(times))


def _epochs_per_second(rows: list[dict[str, Any]], most: int = 20) -> float | None:
    recent = rows[-most:]
    seconds = sum(float(row.get("seconds", 0.0)) for row in recent[1:])
    if len(recent) < 2 or seconds <= 0:
        return None
    passed = float(recent[-1].get("epoch", 0.0)) - float(recent[0].get("epoch", 0.0))
    return passed / seconds


def _has_checkpoint(run: Path) -> bool:
    folder = run / "checkpoints"
    return folder.is_dir() and any(folder.iterdir())


def read_result(run: Path) -> dict[str, Any] | None:
    """``result.json``, None where the run has none that can be read."""
    try:
        value = json.loads((run / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
