"""dathvd launch over ssh: network namespaces as hosts, each with an sshd."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dathvd.checkpoint import find_checkpoints
from dathvd.rig.rig import Rig, network_is_available
from tests.processes import environment
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
]  # fmt: skip


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig.create(2, ssh=True) as rig:
        yield rig


def launch(
    rig: Rig, *words: str, cwd: Path, **env: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dathvd", "launch", *words]
    return subprocess.run(
        rig.command("node0", command),
        cwd=cwd,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
    )


@pytest.mark.parametrize("controller", ["--mpi", "--gloo"])
def test_training_across_hosts(rig: Rig, tmp_path: Path, controller: str) -> None:
    run_dir = tmp_path / "run"
    hosts = ["-H", "node0:1,node1:1", controller]
    train = ["train", "--run-dir", str(run_dir), *QUICK]
    done = launch(rig, *hosts, "--", *train, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((run_dir / "result.json").read_text())
    assert result["num_workers"] == 2
    # both hosts see one disk, and neither may undo the other's checkpoint
    (last,) = find_checkpoints(run_dir)
    assert (last / "model.pt").exists()
    second = (run_dir / "logs" / "rank-001.log").read_text()
    assert " on node1\n" in second.splitlines(keepends=True)[0]
    assert " 1 on this host" in done.stdout  # the other rank is elsewhere


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
