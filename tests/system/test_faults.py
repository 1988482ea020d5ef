"""Faults of a job in training: it ends as if nothing had been, or says why not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.processes import DATHVD, SCRIPTS, environment, mpirun, still_running

# 60 short steps, and an evaluation of 15 parts: time enough to be interrupted
QUICK = [
    "--set", "data.name=synthetic", "--set", "data.image_size=8",
    "--set", "data.num_train=90", "--set", "data.num_test=30",
    "--set", "train.batch_size=32", "--set", "model.width=4",
    "--set", "train.epochs=20", "--set", "train.log_every=1",
    "--set", "train.checkpoint_every=1000", "--set", "attack.num_steps=2",
    "--set", "evaluation.batch_size=2", "--set", "evaluation.attack.num_steps=20",
    "--set", "evaluation.pictures=false",
]  # fmt: skip
SLOW = {"OMP_NUM_THREADS": "1"}


class Job:
    """``dathvd launch`` of two ranks on one run folder."""

    def __init__(self, run_dir: Path, *options: str, command: str = "launch") -> None:
        self.run_dir = run_dir
        handle, name = tempfile.mkstemp(suffix=".out", dir=run_dir.parents[1])
        os.close(handle)
        self.output = Path(name)
        words = [DATHVD, "launch", "-np", "2", *options, "--", "train"]
        if command == "horovodrun":
            words = [str(SCRIPTS / "horovodrun"), "--mpi", "-np", "2", DATHVD, "train"]
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                [*words, "--run-dir", str(run_dir), *QUICK],
                env=environment(SLOW),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], object], seconds: float = 150) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def wait_for_steps(self, number: int) -> None:
        """Until so many more steps are in the log."""
        before = self.steps()
        self.wait_for(lambda: self.steps() >= before + number)

    def steps(self) -> int:
        file = self.run_dir / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    def end(self, seconds: float = 150) -> int:
        return self.process.wait(seconds)

    def ranks(self) -> list[psutil.Process]:
        """The training processes, by rank."""
        found: dict[str, psutil.Process] = {}
        for process in psutil.process_iter(["cmdline", "environ"]):
            words = process.info["cmdline"] or []
            trains = "train" in words and "launch" not in words[:5]
            if trains and "dathvd.launch.worker" not in words:
                rank = (process.info["environ"] or {}).get("OMPI_COMM_WORLD_RANK")
                if rank is not None and str(self.run_dir) in words:
                    found[rank] = process
        return [found[rank] for rank in sorted(found)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What an undisturbed run of two ranks ends with."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    done = mpirun(2, [DATHVD, "train", "--run-dir", str(run_dir), *QUICK], env=SLOW)
    assert done.code == 0, done.output
    return result(run_dir)


@pytest.fixture
def jobs() -> Iterator[list[Job]]:
    """What is started here is ended here."""
    jobs: list[Job] = []
    yield jobs
    for job in jobs:
        if job.process.poll() is None:
            os.killpg(job.process.pid, signal.SIGKILL)
            job.process.wait()


def result(run_dir: Path) -> dict[str, object]:
    keys = ("parameters_sha256", "clean_accuracy", "robust_accuracy", "num_workers")
    found = json.loads((run_dir / "result.json").read_text())
    return {key: found[key] for key in keys}


def checkpoints(run_dir: Path) -> list[str]:
    return sorted(p.name for p in (run_dir / "checkpoints").glob("step-*"))


@pytest.mark.slow
def test_a_run_through_many_faults_ends_as_if_nothing_had_been(
    tmp_path: Path, undisturbed: dict[str, object], jobs: list[Job]
) -> None:
    run_dir = tmp_path / "run"

    def start(*options: str) -> Job:
        jobs.append(Job(run_dir, *options))
        return jobs[-1]

    # asked to stop while the ranks still import torch: a step, a checkpoint, 75
    job = start()
    job.wait_for((run_dir / "logs" / "rank-001.log").exists)
    job.process.send_signal(signal.SIGUSR1)
    assert job.end() == 75, job.said()
    assert "stopped by SIGUSR1: a checkpoint is saved" in job.said()
    (only,) = checkpoints(run_dir)

    # the only checkpoint is damaged: nothing begins anew without being told
    flip_a_bit(run_dir / "checkpoints" / only / "model.pt")
    job = start("--max-restarts", "1")
    assert job.end() == 2, job.said()
    assert f"no other checkpoint is left; move {run_dir}" in job.said()
    assert checkpoints(run_dir) == [only] and "restart" not in job.said()
    flip_a_bit(run_dir / "checkpoints" / only / "model.pt")

    # a frozen rank is found, named and ended; the job goes on; then it is preempted
    job = start("--stall-limit", "2", "--max-restarts", "1")
    job.wait_for_steps(3)
    job.ranks()[1].suspend()
    job.wait_for(lambda: "restart 1 of 1" in job.said())
    assert re.search(r"rank 1 on \S+ stopped by a signal \(SIGSTOP\)", job.said())
    job.wait_for(lambda: job.said().count("going on from") == 2)
    job.process.send_signal(signal.SIGTERM)
    assert job.end() == 75, job.said()

    # a flipped bit in the newest checkpoint: the one before it is taken, loudly;
    # then asked to stop in the evaluation
    older, newest = checkpoints(run_dir)
    flip_a_bit(run_dir / "checkpoints" / newest / "model.pt")
    job = start()
    job.wait_for(lambda: list(run_dir.glob("judged/*/parts/0*.json")))
    job.process.send_signal(signal.SIGTERM)
    assert job.end() == 75, job.said()
    assert "model.pt: corrupted" in job.said() and f"taking {older}" in job.said()
    assert (run_dir / "checkpoints" / f".{newest}.damaged").is_dir()
    assert not (run_dir / "result.json").exists()
    parts = run_dir.glob("judged/*/parts/0*.json")
    judged = sum(len(json.loads(part.read_text())["right"]) for part in parts)

    # the evaluation goes on where it was, and the end is that of the undisturbed run
    job = start()
    assert job.end() == 0, job.said()
    shown = set(re.findall(r"evaluate \[.*\] \d+/(\d+)", job.said()))
    # rank 0's: of 30 probes in all, two a part, its half of what was left
    most = (30 - judged + 1) // 2 + 1
    assert all(int(number) <= most for number in shown), (shown, judged)
    assert result(run_dir) == undisturbed
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == list(range(1, 61))
    assert not job.ranks() and not (run_dir / "judged").exists()


def flip_a_bit(file: Path) -> None:
    """In the middle of the largest tensor: between records lies padding."""
    data = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        record = max(archive.infolist(), key=lambda each: each.file_size)
    names = data[record.header_offset + 26 : record.header_offset + 30]
    header = 30 + int.from_bytes(names[:2], "little")
    header += int.from_bytes(names[2:], "little")
    data[record.header_offset + header + record.file_size // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_run_folder_whose_disk_goes_and_comes_back(
    tmp_path: Path, undisturbed: dict[str, object], jobs: list[Job]
) -> None:
    disk, mount = tmp_path / "disk", tmp_path / "mount"
    disk.mkdir()
    mount.mkdir()
    bind = ["mount", "--bind", str(disk), str(mount)]
    subprocess.run(bind, check=True)
    try:
        job = Job(mount / "run", "--max-restarts", "3")
        jobs.append(job)
        job.wait_for_steps(3)
        subprocess.run(["umount", "--lazy", str(mount)], check=True)
        job.wait_for(lambda: "run folder" in job.said() and "is gone" in job.said())
        assert "no longer there" in job.said()
        assert not list(mount.iterdir())  # nothing was written beside the disk
        subprocess.run(bind, check=True)
        assert job.end() == 0, job.said()
        assert result(mount / "run") == undisturbed
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=False)


def test_ranks_notice_that_horovodrun_has_gone(tmp_path: Path, jobs: list[Job]) -> None:
    """It becomes a shell; a signal ends that alone, and mpirun hears of nothing."""
    job = Job(tmp_path / "run", command="horovodrun")
    jobs.append(job)
    job.wait_for_steps(3)
    ranks = job.ranks()
    assert len(ranks) == 2
    job.process.terminate()
    assert job.end() == -signal.SIGTERM
    assert not still_running(ranks, 20)
    assert len(checkpoints(tmp_path / "run")) == 1, job.said()
