"""dathvd launch over ssh: network namespaces as hosts, each with an sshd."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from dathvd.checkpoint import find_checkpoints
from dathvd.rig.rig import Rig, network_is_available
from tests.processes import DATHVD, environment
from tests.programs import LAUNCHING, RIG

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs(*RIG, *LAUNCHING, "sshd"),
    pytest.mark.skipif(
        not network_is_available(), reason="needs root and network namespaces"
    ),
]
QUICK = [
    "--set", "data.name=synthetic", "--set", "data.image_size=8",
    "--set", "data.num_train=64", "--set", "data.num_test=16",
    "--set", "train.batch_size=32", "--set", "model.width=4",
    "--set", "train.epochs=1", "--set", "attack.num_steps=1",
    "--set", "evaluation.attack.num_steps=1",
    "--set", "evaluation.pictures=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig.create(2, ssh=True) as rig:
        yield rig


def launch(
    rig: Rig, *words: str, cwd: Path, **env: str
) -> subprocess.CompletedProcess[str]:
    command = [DATHVD, "launch", *words]
    return subprocess.run(
        rig.command("node0", command),
        cwd=cwd,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
    )


@contextmanager
def command_lines() -> Iterator[set[str]]:
    """The command lines of all processes that are seen within the block."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            for process in psutil.process_iter(["cmdline"]):
                seen.add(" ".join(process.info["cmdline"] or []))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("controller", ["--mpi", "--gloo"])
def test_training_across_hosts(rig: Rig, tmp_path: Path, controller: str) -> None:
    """Nothing is imported from the folder where it starts, and no key of Horovod's
    services, which run what they are told, is on a command line."""
    run_dir = tmp_path / "run"
    for module in ("json", "psutil", "signal", "horovod"):
        planted = f"open({str(tmp_path / 'executed')!r}, 'w')\n"
        (tmp_path / f"{module}.py").write_text(planted)
    hosts = ["-H", "node0:1,node1:1", controller]
    train = ["train", "--run-dir", str(run_dir), *QUICK]
    with command_lines() as seen:
        done = launch(rig, *hosts, "--", *train, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "executed").exists()
    ranks = [line for line in seen if "dathvd.launch.worker" in line]
    assert ranks and not [line for line in seen if "task_fn" in line]
    result = json.loads((run_dir / "result.json").read_text())
    assert result["num_workers"] == 2
    # both hosts see one disk, and neither may undo the other's checkpoint
    (last,) = find_checkpoints(run_dir)
    assert (last / "model.pt").exists()
    second = (run_dir / "logs" / "rank-001.log").read_text()
    assert " on node1\n" in second.splitlines(keepends=True)[0]
    assert " 1 on this host" in done.stdout  # the other rank is elsewhere


@pytest.mark.slow
def test_a_lost_host_is_left_out_of_the_next_attempt(rig: Rig, tmp_path: Path) -> None:
    """The link of one host is cut in training: the other one goes on alone."""
    run_dir = tmp_path / "run"
    link = ["ip", "netns", "exec", rig.namespace("node1"), "ip", "link", "set"]
    (name,) = network_of(rig, "node1")
    options = ["-H", "node0:1,node1:1", "--stall-limit", "3", "--max-restarts", "1"]
    longer = ["--set", "train.epochs=150", "--set", "train.log_every=1"]
    train = ["train", "--run-dir", str(run_dir), *QUICK, *longer]
    process = subprocess.Popen(
        rig.command("node0", [DATHVD, "launch", *options, "--", *train]),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        metrics = run_dir / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < 5:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        subprocess.run([*link, name, "down"], check=True)
        _, stderr = process.communicate(timeout=200)
    finally:
        process.kill()
        subprocess.run([*link, name, "up"], check=True)
    assert process.returncode == 0, stderr
    assert "host node1: cannot be reached" in stderr and "1 ranks on node0:1" in stderr
    assert json.loads((run_dir / "result.json").read_text())["num_workers"] == 1


def network_of(rig: Rig, host: str) -> list[str]:
    """The names of a host's links."""
    shown = subprocess.run(
        ["ip", "netns", "exec", rig.namespace(host), "ip", "-o", "link"],
        capture_output=True,
        text=True,
        check=True,
    )
    words = [line.split()[1] for line in shown.stdout.splitlines()]
    names = [word.rstrip(":").partition("@")[0] for word in words]
    return [name for name in names if name != "lo"]


def test_an_error_on_another_host_is_the_only_line(rig: Rig, tmp_path: Path) -> None:
    hosts = ["-H", "node0:1,node1:1", "--mpi"]
    train = ["train", "--set", "attack.epsilon=-1", "--run-dir", str(tmp_path / "r")]
    done = launch(rig, *hosts, "--", *train, cwd=tmp_path)
    assert done.returncode == 2
    assert "attack.epsilon" in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    ("host", "message"),
    [("node7", "Could not resolve hostname"), ("10.255.255.1", "cannot be reached")],
)
def test_an_unreachable_host_is_one_line(
    rig: Rig, tmp_path: Path, host: str, message: str
) -> None:
    started = time.monotonic()
    done = launch(rig, "-H", f"node0:1,{host}:1", "--", "train", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"dathvd: error: host {host}: cannot be reached")
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert time.monotonic() - started < 60
    assert not list(tmp_path.iterdir())  # nothing was started


def test_a_host_without_the_environment_is_one_line(rig: Rig, tmp_path: Path) -> None:
    program = "import sys; sys.executable = '/none/python'; "
    program += "from dathvd.__main__ import main; main()"
    words = ["launch", "-H", "node0:1,node1:1", "--", "train"]
    done = subprocess.run(
        rig.command("node0", [sys.executable, "-c", program, *words]),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "host node1: no /none/python" in done.stderr
    assert done.stderr.count("\n") == 1
