"""The index of runs: a table that can be thrown away and made anew from run folders.

It makes listings quick and is never asked what is true: the state of a job that has not
ended is observed anew whenever it is shown, and that of one that has ended when its
``job.json`` is another one than was indexed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    func,
    insert,
    or_,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from dathvd.errors import UserError
from dathvd.files import make_folder
from dathvd.service.observe import Observation, observe_all
from dathvd.service.record import JOB_FILE
from dathvd.service.status import ENDED

_METADATA = MetaData()
RUNS = Table(
    "dathvd_runs",
    _METADATA,
    Column("run", String(1024), primary_key=True),
    Column("uuid", String(32), nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    Column("group_name", String(255), index=True),
    Column("engine", String(32), nullable=False),
    Column("submitted_at", Float, nullable=False, index=True),
    Column("state", String(16), nullable=False, index=True),
    Column("job_mark", String(64), nullable=False),
    Column("observation", Text, nullable=False),
)
"""One row a run folder; ``observation`` is what was seen last, as JSON."""


@dataclass(frozen=True)
class Query:
    """Which runs are listed; None and empty choose all."""

    states: tuple[str, ...] = ()
    group: str | None = None
    text: str | None = None
    """A part of the run folder's path."""
    limit: int = 100
    offset: int = 0
    oldest_first: bool = False


class Catalogue:
    """The index at a database URL.

    Args:
        url: such as ``sqlite:////home/me/runs.sqlite`` or
            ``postgresql+psycopg://host/name``; None takes ``default_url()``.

    Raises:
        UserError: the database cannot be opened.
    """

    def __init__(self, url: str | None = None) -> None:
        self._engine = _open(url or default_url())

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def put(self, observations: Iterable[Observation]) -> None:
        """Enter what was observed, in the place of what was known of these runs."""
        rows = [_row(each) for each in observations]
        with _explained(), self._engine.begin() as connection:
            for start in range(0, len(rows), 500):
                part = rows[start : start + 500]
                names = [row["run"] for row in part]
                connection.execute(delete(RUNS).where(RUNS.c.run.in_(names)))
                connection.execute(insert(RUNS), part)

    def forget(self, runs: Sequence[str]) -> None:
        """Drop the rows of run folders that are gone."""
        with _explained(), self._engine.begin() as connection:
            connection.execute(delete(RUNS).where(RUNS.c.run.in_(list(runs))))

    def select(
        self, query: Query, *, refresh: bool = True
    ) -> tuple[list[dict[str, Any]], int]:
        """The runs asked for, with states that are true now, and how many there are.

        Args:
            query: which runs.
            refresh: observe runs that have not ended anew; False where somebody else
                does so all the time, as in the server.

        Returns:
            Observations as JSON values, newest first, and the number without ``limit``.
        """
        if refresh:
            self.refresh()
        rows, total = self._select(query)
        changed = [Path(row["run"]) for row in rows if _is_outdated(row)]
        if changed:
            self._observe_again(changed)
            rows, total = self._select(query)
        return [json.loads(row["observation"]) for row in rows], total

    def count_states(self) -> dict[str, int]:
        """How many runs are in each state, as last observed."""
        counted = select(RUNS.c.state, func.count()).group_by(RUNS.c.state)
        with _explained(), self._engine.connect() as connection:
            return {state: count for state, count in connection.execute(counted)}

    def recent_states(self, most: int = 1000) -> dict[str, str]:
        """The states of the newest runs, by run folder, as last observed."""
        newest = select(RUNS.c.run, RUNS.c.state).order_by(RUNS.c.submitted_at.desc())
        with _explained(), self._engine.connect() as connection:
            return {run: state for run, state in connection.execute(newest.limit(most))}

    def folder_of(self, uuid: str) -> Path | None:
        """The run folder of the job of that uuid."""
        chosen = select(RUNS.c.run).where(RUNS.c.uuid == uuid)
        with _explained(), self._engine.connect() as connection:
            found = connection.execute(chosen).scalar()
        return Path(found) if found else None

    def find(self, name: str) -> list[str]:
        """Run folders whose uuid begins so, or whose path is or ends so."""
        chosen = select(RUNS.c.run).where(
            or_(
                RUNS.c.uuid.startswith(name, autoescape=True),
                RUNS.c.run == name,
                RUNS.c.run.endswith(f"/{name}", autoescape=True),
            )
        )
        with _explained(), self._engine.connect() as connection:
            return sorted(connection.execute(chosen).scalars())

    def refresh(self) -> None:
        """Observe anew every run that has not ended."""
        alive = select(RUNS.c.run).where(RUNS.c.state.not_in(ENDED))
        with _explained(), self._engine.connect() as connection:
            runs = [Path(run) for run in connection.execute(alive).scalars()]
        if runs:
            self._observe_again(runs)

    def rescan(self, root: Path) -> int:
        """Index every run folder below ``root``; how many there are."""
        found = list(_run_folders(root))
        self._observe_again(found)
        return len(found)

    def discover(self, root: Path) -> list[Path]:
        """Index run folders below ``root`` that are not in the index; these folders."""
        with _explained(), self._engine.connect() as connection:
            known = set(connection.execute(select(RUNS.c.run)).scalars())
        found = [run for run in _run_folders(root) if str(run) not in known]
        if found:
            self._observe_again(found)
        return found

    def _observe_again(self, runs: Sequence[Path]) -> None:
        seen = observe_all(runs)
        self.put(seen)
        there = {each.run for each in seen}
        gone = [str(run) for run in runs if str(run) not in there]
        self.forget([run for run in gone if not (Path(run) / JOB_FILE).exists()])

    def _select(self, query: Query) -> tuple[list[dict[str, Any]], int]:
        chosen = select(RUNS)
        if query.states:
            chosen = chosen.where(RUNS.c.state.in_(query.states))
        if query.group is not None:
            chosen = chosen.where(RUNS.c.group_name == query.group)
        if query.text:
            chosen = chosen.where(RUNS.c.run.contains(query.text, autoescape=True))
        order = RUNS.c.submitted_at
        ordered = chosen.order_by(order if query.oldest_first else order.desc())
        page = ordered.limit(query.limit).offset(query.offset)
        with _explained(), self._engine.connect() as connection:
            total = select(func.count()).select_from(chosen.subquery())
            rows = connection.execute(page).mappings()
            return [dict(row) for row in rows], connection.execute(total).scalar_one()


def default_url() -> str:
    """``$DATHVD_DATABASE``, else a file of this user."""
    named = os.environ.get("DATHVD_DATABASE")
    if named:
        return named
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return f"sqlite:///{Path(data) / 'dathvd' / 'runs.sqlite'}"


def _open(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            make_folder(Path(parsed.database).parent)
        options = {"timeout": 30} if parsed.get_backend_name() == "sqlite" else {}
        # a database that was started again has forgotten the connections
        engine = create_engine(parsed, connect_args=options, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        # the message may hold a password
        reason = type(error).__name__
        raise UserError(
            f"--database: not the URL of a database ({reason}); write "
            "sqlite:////path/to/file or postgresql+psycopg://host/name"
        ) from None
    with _explained():
        _METADATA.create_all(engine)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _wait_for_other_writers)
    return engine


def _wait_for_other_writers(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA busy_timeout = 30000")


class IndexUnavailable(UserError):
    """The database does not answer, or holds something else; runs are not touched."""


class _explained:
    """Turn a database's errors into one line without the URL and its password."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, DBAPIError):
            reason = str(error.orig).strip().splitlines()[0]
            raise IndexUnavailable(
                f"the index of runs cannot be used: {reason} (runs are not touched; "
                "dathvd runs --rescan ROOT makes it anew)"
            ) from None


def _row(seen: Observation) -> dict[str, Any]:
    return {
        "run": seen.run,
        "uuid": seen.job.uuid,
        "attempt": seen.job.attempt,
        "group_name": seen.job.group,
        "engine": seen.job.engine,
        "submitted_at": seen.job.submitted_at,
        "state": seen.state,
        "job_mark": _mark(Path(seen.run)),
        "observation": json.dumps(seen.to_json()),
    }


def _mark(run: Path) -> str:
    """What changes whenever ``job.json`` is written."""
    try:
        seen = (run / JOB_FILE).stat()
    except OSError:
        return "gone"
    return f"{seen.st_ino}-{seen.st_mtime_ns}"


def _is_outdated(row: dict[str, Any]) -> bool:
    return bool(_mark(Path(row["run"])) != row["job_mark"])


def _run_folders(root: Path) -> Iterator[Path]:
    """Folders below ``root`` that hold a job; nothing is looked for inside of one."""
    for folder, folders, files in os.walk(root):
        if JOB_FILE in files:
            folders.clear()
            yield Path(folder).absolute()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
