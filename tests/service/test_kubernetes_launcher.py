"""What the launcher's pod runs, run here: signals, logs, and what makes a pod anew."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dathvd.service import record
from dathvd.service.engines.kubernetes import launcher_command, manifest
from dathvd.service.observe import observe
from dathvd.service.record import Job
from tests.processes import environment

LAUNCH = """\
import os, pathlib, signal, sys, time
run = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1])
def save(number, frame):
    (run / "checkpoints" / "step-00000001").mkdir(parents=True, exist_ok=True)
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGUSR1, save)
print("launch", *sys.argv[1:], flush=True)
(run / "starts").open("a").write("x")
time.sleep(60 if sys.argv[-1] == "wait" else 0)
if sys.argv[-1] == "fail":
    sys.exit("dathvd: error: rank 1 on b: it had to be")
(run / "result.json").write_text("{}")
"""


@pytest.fixture
def pod(tmp_path: Path) -> dict[str, str]:
    """The environment of a pod whose ``dathvd launch`` is a stand-in."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "launch.py").write_text(LAUNCH)
    # python3 -P -m dathvd launch … is the stand-in; the watcher is the product's
    (folder / "python3").write_text(
        f'#!/bin/bash\nif [ "$3" = dathvd ]; then exec {sys.executable} -S '
        f'{tmp_path / "launch.py"} "${{@:5}}"; fi\nexec {sys.executable} "$@"\n'
    )
    (folder / "python3").chmod(0o755)
    (tmp_path / "hostfile").write_text("w-0.w slots=1\nw-1.w slots=1\n")
    return environment({"PATH": f"{folder}:{os.environ['PATH']}"})


def job_of(run: Path, last: str) -> Job:
    job = record.new_job(
        engine="kubernetes",
        num_proc=2,
        arguments=("train", last),
        folder="/",
        host="elsewhere",
    )
    record.write_job(run, job)
    return job


def start(run: Path, job: Job, pod: dict[str, str]) -> subprocess.Popen[bytes]:
    """The first process of the launcher's container."""
    words = launcher_command(run, job)
    words[2] = words[2].replace("/etc/mpi/hostfile", str(run.parent / "hostfile"))
    # the stand-in reads the run folder before its last word
    words = [*words[:4], "--run-dir", str(run), job.arguments[1]]
    return subprocess.Popen(words, env=pod, start_new_session=True)


def said(run: Path, word: str, seconds: float = 30) -> str:
    log, limit = run / "job" / "output-1.log", time.monotonic() + seconds
    while not log.exists() or word not in log.read_text():
        assert time.monotonic() < limit, log.read_text() if log.exists() else "no log"
        time.sleep(0.05)
    return log.read_text()


def test_a_pods_end_saves_and_the_next_pod_goes_on(
    tmp_path: Path, pod: dict[str, str]
) -> None:
    run = tmp_path / "a run"
    job = job_of(run, "wait")
    first = start(run, job, pod)
    text = said(run, "launch")
    assert "--max-restarts 3 -np 2 -H w-0.w:1,w-1.w:1 --" in text
    first.send_signal(signal.SIGTERM)  # as an eviction tells the first process alone
    assert first.wait(20) == 75
    said(run, "saved")
    assert record.read_exit(run, 1) is None  # it has not ended: a pod is made anew
    second = start(run, job, pod)
    said(run, "launch")
    record.write_stop(run, 1, now=False)
    # a stop stops: exit code 0 has no pod made anew, and the record says how it ended
    assert second.wait(20) == 0
    status = observe(run)
    assert (status.state, status.reason) == ("stopped", "with a checkpoint")
    assert (run / "starts").read_text() == "xx"
    third = start(run, job, pod)
    assert third.wait(20) == 0 and (run / "starts").read_text() == "xx"


def test_a_failure_and_an_end_are_recorded_once(
    tmp_path: Path, pod: dict[str, str]
) -> None:
    for word, state, reason in (
        ("fail", "failed", "rank 1 on b: it had to be"),
        ("end", "finished", ""),
    ):
        run = tmp_path / word
        job = job_of(run, word)
        assert start(run, job, pod).wait(20) == 0
        assert start(run, job, pod).wait(20) == 0
        status = observe(run)
        assert (status.state, status.reason) == (state, reason)
        assert (run / "starts").read_text() == "x"


def test_the_script_holds_paths_as_words(tmp_path: Path) -> None:
    run = tmp_path / "a; touch pwned"
    job = record.new_job(
        engine="kubernetes",
        num_proc=2,
        arguments=("train",),
        folder="/",
        options={"max_restarts": "$(touch pwned)"},
    )
    launcher, _ = manifest(run, job)["spec"]["mpiReplicaSpecs"].values()
    words = launcher["template"]["spec"]["containers"][0]["args"]
    assert words == launcher_command(run, job)
    shell = shutil.which("bash")
    assert shell is not None
    script = words[2].replace("exec python3", "printf '%s\\n'")
    script = script.replace("exec >", "true >").replace(
        "/etc/mpi/hostfile", "/dev/null"
    )
    done = subprocess.run(
        [shell, "-c", script, *words[3:]], cwd=tmp_path, capture_output=True, text=True
    )
    assert "$(touch pwned)" in done.stdout.splitlines()
    assert str(run) in done.stdout.splitlines()
    assert not list(tmp_path.glob("pwned*"))
