"""The logs of a run: the launcher's, with all ranks', and one of each rank."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

from dathvd.errors import UserError
from dathvd.service import record
from dathvd.service.attempt import output_file
from dathvd.service.observe import observe
from dathvd.service.status import ENDED


def log_file(run: Path, rank: int | None) -> Path:
    """The newest log of a rank, or of the launcher for None.

    Raises:
        UserError: the run holds no job.
    """
    job = record.read_job(run)
    if job is None:
        raise UserError(f"{run}: it holds no job that was submitted")
    if rank is None:
        return output_file(run, job.attempt)
    return run / "logs" / f"rank-{rank:03d}.log"


def print_log(run: Path, rank: int | None, *, follow: bool) -> None:
    """Print a log as it is, and as it grows until the run has ended.

    Raises:
        UserError: there is no such log.
    """
    path, place = log_file(run, rank), 0
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            ended = not follow or observe(run).state in ENDED
            place = _print_from(path, place)
            if ended:
                break
            time.sleep(0.5)
    if not path.exists():
        raise UserError(f"{path}: there is no such log (yet)")


def _print_from(path: Path, place: int) -> int:
    try:
        with path.open("rb") as file:
            file.seek(place)
            data = file.read()
    except OSError:
        return place
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return place + len(data)
