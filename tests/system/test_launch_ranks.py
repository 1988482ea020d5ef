"""dathvd launch over real MPI and Gloo: errors, signals, restarts, no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from dathvd.launch import LaunchOptions, installed_launchers, launch_command
from dathvd.launch.options import Controller
from tests.processes import DATHVD, environment, run

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, pathlib, sys
from dathvd.launch import LaunchOptions, tree
from dathvd.launch.attempts import Job, Plan
tree.WORKER[:] = ["-m", "tests.system.launched_rank"]
restarts, grace = int(sys.argv[1]), float(sys.argv[2])
run_dir, command = pathlib.Path(sys.argv[3]), sys.argv[4:]
options = LaunchOptions(num_proc=2)
plan = Plan(command, dict(os.environ), run_dir)
sys.exit(Job(plan, options, restarts, grace).run())
"""
LAUNCHERS = ["mpi", "gloo"]


@dataclass
class Job:
    """``dathvd launch`` with stand-ins for the ranks."""

    folder: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(
        self, launcher: str, behaviour: str, restarts: int = 0, grace: float = 20.0
    ) -> subprocess.Popen[str]:
        controller: Controller = "gloo" if launcher == "gloo" else "mpi"
        launcher = "horovodrun" if launcher == "gloo" else "mpirun"
        worker = [sys.executable, "-m", "tests.system.launched_rank"]
        command = launch_command(
            LaunchOptions(num_proc=2, controller=controller, launcher=launcher),
            [*worker, str(self.folder / "logs"), behaviour, str(self.folder / "mark")],
            installed=installed_launchers(),
            environment=environment(),
        )
        options = [str(restarts), str(grace), str(self.folder)]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *options, *command],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def save(self, step: int = 1) -> None:
        """Leave a checkpoint, as the launcher sees it."""
        (self.folder / "config.yaml").touch()
        (self.folder / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)

    def wait_until_ready(self) -> None:
        """Until both ranks are at work."""

        def ready() -> bool:
            logs = [self.folder / "logs" / f"rank-00{rank}.log" for rank in (0, 1)]
            return all(log.exists() and "ready" in log.read_text() for log in logs)

        wait_for(ready, 60, "the ranks did not start")


def wait_for(condition: Callable[[], bool], seconds: float, message: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.05)


def end(process: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=seconds)
    return process.returncode, stdout, stderr


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    for process in job.processes:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def alive(pids: Sequence[int]) -> list[int]:
    return [
        pid
        for pid in pids
        if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"
    ]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_rank_s_error_is_the_only_line_and_ends_all(job: Job, launcher: str) -> None:
    started = time.monotonic()
    code, stdout, stderr = end(job.start(launcher, "refuse"))
    assert code == 2
    assert stderr.startswith("dathvd: error: rank 1 on "), stderr
    assert "no such file" in stderr and stderr.count("\n") == 1, stderr
    assert time.monotonic() - started < 40  # the other rank sleeps for 120 s
    log = (job.folder / "logs" / "rank-001.log").read_text()
    assert "no such file" in log


def test_a_killed_rank_is_named(job: Job) -> None:
    code, _, stderr = end(job.start("mpi", "killed"))
    assert code == 1
    assert "rank 1 on " in stderr.splitlines()[0]
    assert "SIGKILL" in stderr.splitlines()[0]


def test_a_failed_job_is_started_again(job: Job) -> None:
    code, stdout, stderr = end(job.start("mpi", "fail-once", restarts=1))
    assert code == 0, stderr
    assert "RuntimeError: lightning" in stderr
    assert "restart 1 of 1" in stderr
    assert sorted(stdout.split("\n")[-3:-1]) == ["[0] done", "[1] done"]


def test_restarts_run_out(job: Job) -> None:
    code, _, stderr = end(job.start("mpi", "killed", restarts=1))
    assert code == 1
    assert stderr.count("SIGKILL") == 2 and stderr.count("restart 1 of 1") == 1


def test_a_users_error_is_not_tried_again(job: Job) -> None:
    code, _, stderr = end(job.start("mpi", "refuse", restarts=3))
    assert code == 2 and "restart 1" not in stderr


@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        ("mpi", signal.SIGUSR1),
        ("gloo", signal.SIGTERM),
    ],
)
def test_preemption_reaches_every_rank(
    job: Job, launcher: str, number: signal.Signals
) -> None:
    process = job.start(launcher, "save")
    job.wait_until_ready()
    process.send_signal(number)
    code, _, stderr = end(process, 20)
    assert code == 75, stderr
    assert f"stopped by {number.name}: a checkpoint is saved" in stderr


@pytest.mark.parametrize(
    ("launcher", "saved"), [("mpi", False), ("mpi", True), ("gloo", False)]
)
def test_a_stop_that_ranks_do_not_hear_is_no_success(
    job: Job, launcher: str, saved: bool
) -> None:
    """Exit 0 would tell Kubernetes and Slurm that the job is done."""
    if saved:
        job.save()
    process = job.start(launcher, "sleep", grace=1.0)
    job.wait_until_ready()
    process.send_signal(signal.SIGTERM)
    code, _, stderr = end(process, 30)
    assert code == (75 if saved else 1), stderr
    assert ("a checkpoint is saved" if saved else "nothing was saved") in stderr


@pytest.mark.parametrize("saved", [False, True])
def test_a_stop_in_the_pause_between_restarts(job: Job, saved: bool) -> None:
    if saved:
        job.save()
    process = job.start("mpi", "killed", restarts=3)
    assert process.stderr is not None
    while "restart 2 of 3 in 1 s" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    code, _, stderr = end(process, 30)
    assert code == (75 if saved else 1) and "stopped by SIGTERM" in stderr, stderr


def test_failures_are_counted_since_the_last_checkpoint(job: Job) -> None:
    """It fails three times, each time after a new checkpoint, and may fail once."""
    code, stdout, stderr = end(job.start("mpi", "fail-after-saving", restarts=1))
    assert code == 0, stderr
    assert stderr.count("restart 1 of 1, from checkpoint step-0000000") == 3


def test_a_rank_that_hangs_is_named_with_its_place(job: Job) -> None:
    """Rank 0 waits for it, as in a collective, and is not blamed."""
    code, _, stderr = end(job.start("mpi", "hang"))
    assert code == 1
    (line,) = [line for line in stderr.splitlines() if "error:" in line]
    assert line.startswith("dathvd: error: rank 1 on ") and "no step for" in line
    assert "launched_rank.py:" in line and "in stuck" in line
    log = (job.folder / "logs" / "rank-001.log").read_text()
    assert "most recent call first" in log  # the whole stack


def test_a_stopped_rank_is_ended_and_named(job: Job) -> None:
    process = job.start("mpi", "stand-still")
    job.wait_until_ready()
    pid = int((job.folder / "mark.1").read_text())
    os.kill(pid, signal.SIGSTOP)
    code, _, stderr = end(process, 30)
    assert code == 1 and "rank 1 on " in stderr.splitlines()[0], stderr
    assert "stopped by a signal (SIGSTOP)" in stderr.splitlines()[0]
    assert not alive([pid])


@pytest.mark.parametrize("launcher", ["mpi", "gloo"])
def test_ctrl_c_ends_ranks_that_do_not_listen(job: Job, launcher: str) -> None:
    process = job.start(launcher, "sleep")
    job.wait_until_ready()
    pids = [int((job.folder / f"mark.{rank}").read_text()) for rank in (0, 1)]
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    code, _, stderr = end(process, 30)
    assert code == 130, stderr
    assert time.monotonic() - started < 20
    wait_for(lambda: not alive(pids), 10, "ranks were left over")


@pytest.mark.parametrize("launcher", ["mpi", "gloo"])
def test_no_rank_outlives_a_killed_launcher(job: Job, launcher: str) -> None:
    process = job.start(launcher, "sleep")
    job.wait_until_ready()
    pids = [int((job.folder / f"mark.{rank}").read_text()) for rank in (0, 1)]
    assert alive(pids) == pids
    process.kill()
    process.communicate()
    wait_for(lambda: not alive(pids), 30, "ranks were left over")


def test_the_command_runs_ranks_and_prefixes_their_output() -> None:
    done = run([DATHVD, "launch", "-np", "2", "--gloo", "--", "show-config"])
    assert done.code == 0, done.output
    for rank in (0, 1):
        assert f"[{rank}] attack:" in done.stdout.splitlines()
    assert all(line.startswith(("[0] ", "[1] ")) for line in done.stdout.splitlines())
