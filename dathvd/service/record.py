"""What a submission leaves in its run folder.

    RUN/job.json         what was asked for; written before anything is submitted
    RUN/job/id-N.json    the engine's own id of attempt N; written after the submission
    RUN/job/stop-N.json  a request to stop attempt N
    RUN/job/exit-N.json  how attempt N ended; written by the process that watched it

Each file is written whole or not at all. The number of the attempt goes up by one with
each resume: what is left of an earlier attempt says nothing of a later one.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import time
import uuid
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dathvd.errors import UserError
from dathvd.files import explain_os_errors, make_folder, write_text

JOB_FILE = "job.json"


class _Record(BaseModel):
    """A frozen record; fields that a later version added are ignored."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


R = TypeVar("R", bound=_Record)


class Job(_Record):
    """One submission: what to run, where, and who asked for it."""

    uuid: str = Field(pattern=r"^[0-9a-f]{32}$")
    """The job's name at its engine, the same for all attempts."""
    attempt: int = Field(default=1, ge=1)
    """The number of the attempt, from 1 on."""
    engine: str
    """A name of ``dathvd.service.engines.ENGINES``."""
    num_proc: int = Field(ge=1)
    """Number of ranks."""
    arguments: tuple[str, ...]
    """The command of ``dathvd`` and its arguments, without ``--run-dir``."""
    options: dict[str, str] = {}
    """The engine's own options, such as a partition."""
    config: dict[str, Any] | None = None
    """The validated configuration; None for other commands than ``train``."""
    group: str | None = None
    """What the submissions of one grid share."""
    after: str | None = None
    """The run folder that must be finished before this job starts."""
    folder: str
    """The working directory, from which relative paths count."""
    submitted_at: float
    """Seconds since 1970."""
    submitted_by: str
    host: str
    """The host that it was submitted on; the local engine runs it there."""
    versions: dict[str, str] = {}

    @property
    def command(self) -> str:
        """The subcommand, such as ``train``."""
        return self.arguments[0]

    @property
    def name(self) -> str:
        """The attempt's name at its engine: unique, and short enough for any."""
        return f"dathvd-{self.uuid[:12]}-{self.attempt}"


class EngineId(_Record):
    """What the engine calls an attempt."""

    id: str
    submitted_at: float


class StopRequest(_Record):
    """Somebody wants an attempt to end."""

    at: float
    by: str
    now: bool = False
    """Without saving."""


class Exit(_Record):
    """How an attempt ended, as the process that watched over it saw."""

    code: int
    """The command's exit code; 128 + number for a death by signal."""
    at: float
    started_at: float
    message: str = ""
    """The failing rank's message, or the last line that was said."""


def new_job(**fields: Any) -> Job:
    """A job that is submitted now, here, by this user; its uuid is new unless given."""
    here = {
        "uuid": uuid.uuid4().hex,
        "submitted_at": time.time(),
        "submitted_by": user(),
        "host": platform.node(),
    }
    return Job(**{**here, **fields})


def user() -> str:
    """The name of the user, or its number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def write_job(run: Path, job: Job) -> None:
    """Write ``job.json`` and flush its folder to disk.

    Raises:
        UserError: it cannot be written.
    """
    make_folder(run / "job")
    write_text(run / JOB_FILE, job.model_dump_json(indent=2) + "\n")
    sync_folder(run)


def read_job(run: Path) -> Job | None:
    """The run's job; None where the folder holds none.

    Raises:
        UserError: the file cannot be read, or holds no job.
    """
    return _read(run / JOB_FILE, Job)


def _file(run: Path, kind: str, attempt: int) -> Path:
    return run / "job" / f"{kind}-{attempt}.json"


def write_id(run: Path, attempt: int, engine_id: str) -> None:
    """Record what the engine calls the attempt."""
    record = EngineId(id=engine_id, submitted_at=time.time())
    _write(_file(run, "id", attempt), record)


def read_id(run: Path, attempt: int) -> EngineId | None:
    """What the engine calls the attempt, if that is known."""
    return _read(_file(run, "id", attempt), EngineId)


def write_stop(run: Path, attempt: int, *, now: bool) -> None:
    """Ask for the attempt's end."""
    record = StopRequest(at=time.time(), by=user(), now=now)
    _write(_file(run, "stop", attempt), record)


def read_stop(run: Path, attempt: int) -> StopRequest | None:
    """The request to end the attempt, if there is one."""
    return _read(_file(run, "stop", attempt), StopRequest)


def write_exit(run: Path, attempt: int, exit: Exit) -> None:
    """Record how the attempt ended."""
    _write(_file(run, "exit", attempt), exit)


def read_exit(run: Path, attempt: int) -> Exit | None:
    """How the attempt ended, if its watcher said so."""
    return _read(_file(run, "exit", attempt), Exit)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that new files outlive a power cut."""
    with explain_os_errors("flush", folder):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write(path: Path, record: _Record) -> None:
    make_folder(path.parent)
    write_text(path, record.model_dump_json() + "\n")
    sync_folder(path.parent)


def _read(path: Path, kind: type[R]) -> R | None:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"{path}: cannot be read: {reason}") from None
    try:
        return kind.model_validate(json.loads(text))
    except (ValueError, ValidationError):
        raise UserError(f"{path}: not a record of dathvd") from None
