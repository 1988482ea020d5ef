"""One attempt of a job: its command is run, watched, stopped on request, and recorded.

    python -m dathvd.service.attempt RUN N [--requeue COMMAND] -- COMMAND…

Every engine starts attempts through this module, so that each leaves the same records.
It imports neither torch nor Horovod.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import click
import psutil

from dathvd.errors import TEMPORARY_FAILURE, UserError
from dathvd.service import record

POLL_SECONDS = 0.25
"""How often the watcher looks for a request to stop."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_ERROR = re.compile(r"dathvd: error: (.*)")
_PREFIX = re.compile(r"^\[\d+\] ")


def launch_command(run: Path, job: record.Job) -> list[str]:
    """The ``dathvd launch`` that runs the job's ranks on this machine."""
    options = ["-np", str(job.num_proc)]
    restarts = job.options.get("max_restarts")
    if restarts:
        options += ["--max-restarts", restarts]
    words = [sys.executable, "-P", "-m", "dathvd", "launch", *options]
    return [*words, "--", *rank_arguments(run, job)]


def rank_arguments(run: Path, job: record.Job) -> list[str]:
    """The arguments of ``dathvd`` on every rank."""
    if job.command == "train":
        return [*job.arguments, "--run-dir", str(run)]
    return list(job.arguments)


def output_file(run: Path, attempt: int) -> Path:
    """Where all that an attempt's launcher says is kept."""
    return run / "job" / f"output-{attempt}.log"


class Watch:
    """Runs one command to its end, and ends it when that is asked for.

    Args:
        run: the run folder.
        attempt: the attempt's number.
        command: what to run; it must save and exit with 75 on SIGUSR1.
        environment: the command's environment.
        keep_open: descriptors that the command inherits, such as locks that are held
            until the last process has gone.
    """

    def __init__(
        self,
        run: Path,
        attempt: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        folder: str | None = None,
        keep_open: Sequence[int] = (),
    ) -> None:
        self._run = run
        self._attempt = attempt
        self._asked = False
        self._started = time.time()
        parent = os.getpid()
        with self._signals():
            self._child = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                pass_fds=tuple(keep_open),
                preexec_fn=lambda: _end_with(parent),
            )
            code = self._wait()
        self.exit = record.Exit(
            code=code if code >= 0 else 128 - code,
            at=time.time(),
            started_at=self._started,
            message="" if code == 0 else last_words(output_file(run, attempt)),
        )
        """How the command ended."""

    def _wait(self) -> int:
        told = False
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._child.wait(timeout=POLL_SECONDS)
            with contextlib.suppress(UserError):  # a disk that is away for a while
                stop = record.read_stop(self._run, self._attempt)
                if stop is not None and stop.now:
                    _kill_tree(self._child)
                elif stop is not None:
                    self._asked = True
            if self._asked and not told:
                told = True
                # SIGUSR1 is what launchers and srun pass on to the ranks
                self._child.send_signal(signal.SIGUSR1)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Take a signal as a request to save and end."""

        def note(number: int, frame: FrameType | None) -> None:
            self._asked = True

        numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        before = {number: signal.signal(number, note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _end_with(parent: int) -> None:
    """In the child: be asked to save and end when the watcher has gone."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def _kill_tree(child: subprocess.Popen[bytes]) -> None:
    """End a command and all that descend from it, at once."""
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(child.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
    child.kill()


def last_words(path: Path, most_bytes: int = 65536) -> str:
    """The last error in a log, else its last line; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - most_bytes))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    lines = [_PREFIX.sub("", line).strip() for line in lines if line.strip()]
    errors = [found[1] for line in lines if (found := _ERROR.search(line))]
    return (errors or lines or [""])[-1][:600]


def run_attempt(
    run: Path,
    attempt: int,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: str | None = None,
    keep_open: Sequence[int] = (),
    requeue: Callable[[], bool] | None = None,
) -> int:
    """Run an attempt's command and record its end; its exit code.

    Args:
        run, attempt, command, environment, folder, keep_open: see ``Watch``.
        requeue: called where the command saved and left (75) and nobody asked for the
            attempt's end, as after a preemption; whether the engine will start it
            again, in which case nothing is recorded: the attempt goes on.
    """
    exit = Watch(
        run, attempt, command, environment, folder=folder, keep_open=keep_open
    ).exit
    preempted = exit.code == TEMPORARY_FAILURE
    if preempted and requeue is not None and record.read_stop(run, attempt) is None:
        if requeue():
            return exit.code
    record.write_exit(run, attempt, exit)
    return exit.code


@click.command(add_help_option=False)
@click.option("--requeue", help="What puts the attempt back into the engine's queue.")
@click.option(
    "--restarted",
    is_flag=True,
    help="The engine starts the attempt again until it ends with exit code 0.",
)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("attempt", type=int)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def main(
    run: Path,
    attempt: int,
    command: tuple[str, ...],
    requeue: str | None,
    restarted: bool,
) -> None:
    """Run COMMAND as that attempt of the run."""
    if record.read_exit(run, attempt) is not None:
        sys.exit(0)  # started again after its end: there is nothing to do
    if restarted:
        run_attempt(run, attempt, command, os.environ, requeue=lambda: True)
        sys.exit(TEMPORARY_FAILURE if record.read_exit(run, attempt) is None else 0)
    code = run_attempt(
        run,
        attempt,
        command,
        os.environ,
        requeue=(lambda: _succeeds(requeue.split())) if requeue else None,
    )
    sys.exit(code)


def _succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    main()
