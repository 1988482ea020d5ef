"""Time from a rank's death to the next step, in parts: ``python -m`` this module.

A job is killed a rank of, between two steps, again and again, for each number of ranks.
The parts follow from what the launcher and rank 0 say, and when. What imports take
of a start is measured apart, by as many processes that import and do nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import click

from dathvd.errors import UserError
from dathvd.lists import some_integers
from dathvd.rig.chaos.job import Job

_OPTIONS = ("--max-restarts", "3", "--grace", "20", "--hot-every", "5")
_LIMIT = 120.0  # seconds
_STRUCK_AT = 12  # steps
_MARKS = {
    "ended": "dathvd: restart ",
    "started": "] run folder ",
    "built": "] going on from ",
}
"""What is said when a part is over; the last part ends with the step."""
_PARTS = ("noticed and ended", "started", "built", "restored and a step")
_IMPORTS = [
    *(sys.executable, "-P", "-c"),
    "import horovod.torch, dathvd.training.run",
]


def seconds_to_a_step(size: int, folder: Path) -> dict[str, float]:
    """Kill one rank of ``size``; the seconds of each part, and in all.

    Raises:
        UserError: the job did not go on.
    """
    job = Job(folder, size, _OPTIONS, {"OMP_NUM_THREADS": "1"})
    try:
        job.start()
        if not job.wait_until(lambda: job.steps() >= _STRUCK_AT, _LIMIT):
            raise UserError(f"recovery: the job did not begin: {job.said()[-300:]}")
        job.hold_steps()  # so that none is lost to whatever else the cores do
        said, steps = len(job.said()), job.steps()
        job.of_kind("rank")[-1].send_signal(signal.SIGKILL)
        struck = time.monotonic()
        job.let_steps_go()
        moments = [struck, *_moments(job, said, steps)]
    finally:
        job.kill()
    parts = [after - before for before, after in zip(moments, moments[1:])]
    return {**dict(zip(_PARTS, parts, strict=True)), "in all": moments[-1] - struck}


def _moments(job: Job, said: int, steps: int) -> Iterator[float]:
    """When each mark was said, and when there was a further step than before."""
    for mark in _MARKS.values():
        if not job.wait_until(lambda: mark in job.said()[said:], _LIMIT):
            raise UserError(f"recovery: never said {mark!r}: {job.said()[-300:]}")
        yield time.monotonic()
    job.wait_until(lambda: job.steps() > steps, _LIMIT)
    yield time.monotonic()


def seconds_of_imports(size: int) -> float:
    """What ``size`` processes at once take to start and to import."""
    began = time.monotonic()
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen(_IMPORTS, env=environ) for _ in range(size)]
    for process in started:
        process.wait()
    return time.monotonic() - began


@click.command()
@click.option("--sizes", default="2,4,8", show_default=True, metavar="N,…")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--json", "json_file", metavar="FILE", help="Write the figures there.")
def main(sizes: str, repeats: int, json_file: str | None) -> None:
    """Print the medians for each number of ranks."""
    found: dict[int, dict[str, float]] = {}
    for size in some_integers("--sizes", sizes, least=1):
        rounds = []
        for _ in range(repeats):
            folder = Path(tempfile.mkdtemp(prefix="dathvd-recovery-"))
            parts = seconds_to_a_step(size, folder)
            rounds.append({**parts, "imports alone": seconds_of_imports(size)})
            shutil.rmtree(folder, ignore_errors=True)
        found[size] = {part: median(r[part] for r in rounds) for part in rounds[0]}
        told = ", ".join(f"{part} {took:.1f}" for part, took in found[size].items())
        click.echo(f"{size} ranks, seconds: {told}")
    if json_file:
        Path(json_file).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
