"""The Slurm launcher on a Slurm of one machine: real jobs, preemption, requeue."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.processes import DATHVD, environment
from tests.programs import LAUNCHING, SLURM_PROGRAMS

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "launchers" / "slurm"
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd needs root"),
    pytest.mark.needs(*SLURM_PROGRAMS, *LAUNCHING),
]
# 60 short steps: time enough to be interrupted
QUICK = [
    "--set", "data.name=synthetic", "--set", "data.image_size=8",
    "--set", "data.num_train=90", "--set", "data.num_test=30",
    "--set", "train.batch_size=32", "--set", "model.width=4",
    "--set", "train.epochs=20", "--set", "train.log_every=1",
    "--set", "train.checkpoint_every=1000", "--set", "attack.num_steps=2",
    "--set", "evaluation.batch_size=8", "--set", "evaluation.attack.num_steps=2",
    "--set", "evaluation.pictures=false",
]  # fmt: skip


class Cluster:
    """A running one-machine Slurm."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = environment({"SLURM_CONF": str(folder / "slurm.conf")})
        self.env["VENV"] = str(Path(sys.executable).parents[1])

    def call(self, *command: str, **env: str) -> str:
        done = subprocess.run(
            command,
            env={**self.env, **env},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def submit(self, run_dir: Path, **env: str) -> str:
        script = str(SLURM / "train.sbatch")
        variables = {"RUN_DIR": str(run_dir), **env}
        return self.call("sbatch", "--parsable", script, *QUICK, **variables)

    def wait(self, job: str, seconds: float = 150) -> str:
        """The job's output, when it has left the queue."""
        deadline = time.monotonic() + seconds
        while self.state(job) not in ("", "COMPLETED", "FAILED"):
            assert time.monotonic() < deadline, self.output(job)
            time.sleep(0.3)
        return self.output(job)

    def state(self, job: str) -> str:
        done = subprocess.run(
            ["squeue", "-h", "-j", job, "-o", "%T"],
            env=self.env,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def output(self, job: str) -> str:
        file = self.folder / f"slurm-{job}.out"
        return file.read_text() if file.exists() else ""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("slurm")
    script = str(SLURM / "one-machine.sh")
    done = subprocess.run(
        [script, "up", str(folder)], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    try:
        yield Cluster(folder)
    finally:
        subprocess.run([script, "down", str(folder)], timeout=60)


def processes_in(folder: Path) -> list[str]:
    """The command lines of what runs there."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder):
                found.append(" ".join(process.cmdline()))
    return found


def test_nothing_outlives_a_slurm_of_one_machine(tmp_path: Path) -> None:
    script, folder = str(SLURM / "one-machine.sh"), tmp_path / "slurm"
    subprocess.run([script, "up", str(folder)], check=True, timeout=90)
    try:
        cluster = Cluster(folder)
        job = cluster.call("sbatch", "--parsable", "--wrap", "srun sleep 600")
        deadline = time.monotonic() + 60
        while not any("sleep 600" in line for line in processes_in(folder)):
            assert time.monotonic() < deadline, cluster.state(job)
            time.sleep(0.1)
    finally:
        subprocess.run([script, "down", str(folder)], check=True, timeout=90)
    assert not processes_in(folder)


def parameters(run_dir: Path) -> str:
    return str(json.loads((run_dir / "result.json").read_text())["parameters_sha256"])


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> str:
    """The parameters that plain srun trains."""
    run_dir = cluster.folder / "undisturbed"
    command = [DATHVD, "train", "--run-dir", str(run_dir), *QUICK]
    cluster.call("srun", "--mpi=pmix", "-n", "2", *command)
    result = json.loads((run_dir / "result.json").read_text())
    assert result["num_workers"] == 2
    return parameters(run_dir)


def submit_and_wait_for_steps(cluster: Cluster, run_dir: Path, **env: str) -> str:
    """A job that has taken its first steps."""
    job = cluster.submit(run_dir, **env)
    metrics = run_dir / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 4:
        assert time.monotonic() < deadline, cluster.output(job)
        time.sleep(0.05)
    return job


def environments(run_dir: Path) -> list[dict[str, str]]:
    """Those of the ranks that train there."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if words[1:4] == [DATHVD, "train", "--run-dir"] and words[4] == str(
                run_dir
            ):
                found.append(process.environ())
    return found


def test_a_preempted_job_saves_requeues_and_ends_the_same(
    cluster: Cluster, undisturbed: str
) -> None:
    run_dir = cluster.folder / "preempted"
    job = submit_and_wait_for_steps(cluster, run_dir)
    # what --signal=B:USR1 sends before the time limit and at preemption
    cluster.call("scancel", "--batch", "--signal=USR1", job)
    output = cluster.wait(job)
    assert "saved; back into the queue" in output, output
    assert f"job {job}, start 1:" in output, output
    assert parameters(run_dir) == undisturbed, output


def test_a_stopped_job_saves_and_does_not_come_back(cluster: Cluster) -> None:
    """Its ranks had what the list of variables allows, and what was asked for."""
    run_dir = cluster.folder / "stopped"
    given = {"MY_TOKEN": "hush", "MINE": "a,b"}
    job = submit_and_wait_for_steps(cluster, run_dir, **given, EXPORT="MINE")
    ranks = environments(run_dir)
    assert len(ranks) == 2
    for environ in ranks:
        assert "hush" not in environ.values()
        assert environ["MINE"] == "a,b" and environ["HOME"] == os.environ["HOME"]
    cluster.call("scancel", "--batch", "--signal=USR2", job)
    output = cluster.wait(job)
    assert "saved and stopped" in output, output
    assert "back into the queue" not in output and "start 1:" not in output, output
    assert list((run_dir / "checkpoints").iterdir())
    assert not (run_dir / "result.json").exists()


def test_the_horovodrun_form_trains_the_same(
    cluster: Cluster, undisturbed: str
) -> None:
    run_dir = cluster.folder / "horovodrun"
    output = cluster.wait(cluster.submit(run_dir, LAUNCH="horovodrun"))
    assert "dathvd launch -H" in output
    assert parameters(run_dir) == undisturbed, output
    logs = sorted(file.name for file in (run_dir / "logs").iterdir())
    assert logs == ["rank-000.log", "rank-001.log"]


def test_a_users_error_is_not_requeued(cluster: Cluster) -> None:
    run_dir = cluster.folder / "wrong"
    script = str(SLURM / "train.sbatch")
    job = cluster.call(
        "sbatch", "--parsable", script, "--set", "attack.epsilon=-1",
        RUN_DIR=str(run_dir),
    )  # fmt: skip
    output = cluster.wait(job)
    assert "attack.epsilon" in output and "start 1" not in output
    assert not (run_dir / "result.json").exists()
