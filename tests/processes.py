"""Starting real processes in tests, with a hard limit on their time."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from tests.programs import LAUNCHING, require

SCRIPTS = Path(sys.executable).parent
DATHVD = str(SCRIPTS / "dathvd")


@dataclass(frozen=True)
class Finished:
    """What a process left."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    """From start to end."""
    seconds_after_error: float
    """From the first line that reports an error to the end; infinite without one."""

    @property
    def output(self) -> str:
        """All that it said, for assertion messages."""
        return f"exit {self.code}\n{self.stdout}\n{self.stderr}"


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, fit for starting ranks from it."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMPI_", "PMIX_", "PMI_", "HOROVOD_"))
    }
    return {
        **inherited,
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        # MPI refuses root by default; CI and containers are root
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        # tests share the cores: threads and ranks that wait must not keep any busy
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMP_NUM_THREADS": "1",
        **_patience(),
        **(changes or {}),
    }


@functools.cache
def _patience() -> dict[str, str]:
    """What lets waiting ranks sleep; nothing on a machine without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return {}
    folder = tempfile.mkdtemp(prefix="patient-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source, library = Path(__file__).with_name("patient.c"), f"{folder}/patient.so"
    words = [compiler, "-O1", "-shared", "-fPIC", "-o", library, str(source)]
    return {"LD_PRELOAD": library} if subprocess.run(words).returncode == 0 else {}


def run(
    arguments: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> Finished:
    """Run a command to its end; its whole process group is killed at the limit."""
    started = time.monotonic()
    process = subprocess.Popen(
        [str(argument) for argument in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=cwd,
        env=environment(env),
        start_new_session=True,
    )
    errors: list[float] = []
    texts: list[list[str]] = [[], []]

    def read(stream: IO[str], lines: list[str]) -> None:
        for line in stream:
            if "dathvd: error:" in line:
                errors.append(time.monotonic())
            lines.append(line)

    assert process.stdout is not None and process.stderr is not None
    readers = [
        threading.Thread(target=read, args=pair)
        for pair in zip((process.stdout, process.stderr), texts, strict=True)
    ]
    for reader in readers:
        reader.start()
    try:
        process.wait(timeout)
        in_time = True
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        in_time = False
    for reader in readers:
        reader.join(10)
    ended = time.monotonic()
    stdout, stderr = ("".join(lines) for lines in texts)
    assert in_time, f"{arguments} did not end in {timeout} s\n{stdout}\n{stderr}"
    after = ended - min(errors) if errors else float("inf")
    return Finished(process.wait(), stdout, stderr, ended - started, after)


def still_running(
    processes: Sequence[psutil.Process], seconds: float
) -> list[psutil.Process]:
    """Those that have not ended within so many seconds.

    One that has ended stays as a zombie where the first process of a container asks
    for no orphan, as most commands do that are started there.
    """
    deadline = time.monotonic() + seconds
    while alive := [process for process in processes if _runs(process)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return alive


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def mpirun(
    num_ranks: int, arguments: Sequence[str | Path], **options: object
) -> Finished:
    """Run a command on several ranks under plain mpirun (quicker than horovodrun)."""
    require(*LAUNCHING)
    launcher = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(num_ranks)]
    return run([*launcher, *arguments], **options)  # type: ignore[arg-type]


def horovodrun(
    num_ranks: int,
    arguments: Sequence[str | Path],
    *,
    controller: str = "mpi",
    **options: object,
) -> Finished:
    """Run a command on several ranks under horovodrun, over ``mpi`` or ``gloo``."""
    require(*LAUNCHING)
    launcher = [str(SCRIPTS / "horovodrun"), f"--{controller}", "-np", str(num_ranks)]
    return run([*launcher, *arguments], **options)  # type: ignore[arg-type]
