"""The files of a run that may be shown, each by a fixed name and never by a path."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from dathvd.errors import UserError
from dathvd.service import record

SHOWN = {
    "config.yaml": "text/plain; charset=utf-8",
    "result.json": "application/json",
    "training.png": "image/png",
    "examples.png": "image/png",
    "trust_ratios.png": "image/png",
}
"""The files that a run's page may show, with their types."""
MOST_BYTES = 1 << 20
"""The most bytes of a log or of metrics that are read at once."""


def read_shown(run: Path, name: str) -> bytes:
    """A file of ``SHOWN``.

    Raises:
        UserError: the name is not one of them, or the run has no such file.
    """
    if name not in SHOWN:
        raise UserError(f"{name!r}: no file of a run that is shown")
    return _read(run / name, 0, 64 << 20)


def log_names(run: Path) -> list[int]:
    """The ranks that have a log."""
    found = []
    for path in (run / "logs").glob("rank-*.log"):
        number = path.stem.removeprefix("rank-")
        if number.isdecimal():
            found.append(int(number))
    return sorted(found)


def log_part(run: Path, rank: int | None, start: int) -> tuple[str, int]:
    """A log's text from a place on, and the place behind it.

    Args:
        run: the run folder.
        rank: whose log; None for the launcher's of the newest attempt.
        start: a place in bytes; negative ones count from the end.

    Raises:
        UserError: there is no such log.
    """
    if rank is not None:
        path = run / "logs" / f"rank-{rank:03d}.log"
    else:
        job = record.read_job(run)
        attempt = job.attempt if job is not None else 1
        path = run / "job" / f"output-{attempt}.log"
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        place = max(0, size + start) if start < 0 else min(start, size)
        file.seek(place)
        data = file.read(MOST_BYTES)
    return data.decode(errors="replace"), place + len(data)


def metrics_after(run: Path, step: int, most: int = 2000) -> list[dict[str, Any]]:
    """The rows of metrics of later steps than ``step``, thinned to at most ``most``."""
    try:
        data = _read(run / "metrics.jsonl", 0, 256 << 20)
    except UserError:
        return []
    rows = []
    for line in data.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("step", 0) > step:
            rows.append(row)
    if len(rows) <= most:
        return rows
    stride = -(-len(rows) // most)
    return [*rows[:-1:stride], rows[-1]]


def _read(path: Path, start: int, most: int) -> bytes:
    with _open(path) as file:
        file.seek(start)
        return file.read(most)


def _open(path: Path) -> BinaryIO:
    """Open a regular file; a link in the run folder leads nowhere."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise UserError(f"{path.name}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path.name}: not a file")
    return os.fdopen(descriptor, "rb")
