"""A job whose two hosts share a disk, each with a view of it that is 30 seconds old."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dathvd import checkpoint
from dathvd.rig import Rig, entry, network_is_available
from dathvd.run_folder import read_result
from tests.processes import environment
from tests.programs import RIG
from tests.stale_mounts import build, mounted

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.needs(*RIG, "mpirun"),
    pytest.mark.skipif(
        not network_is_available(), reason="needs root and network namespaces"
    ),
]
HOSTS = ("node0", "node1")
# 9 steps with a checkpoint after every third
QUICK = [
    "data.name=synthetic", "data.image_size=8", "data.num_train=90",
    "data.num_test=8", "train.batch_size=32", "model.width=4", "train.epochs=3",
    "attack.num_steps=1", "evaluation.attack.num_steps=1", "compression.name=int8",
    "train.checkpoint_every=1", "optimizer.name=lamb",
    "evaluation.pictures=false",
]  # fmt: skip


def train(rig: Rig, disk: Path, hosts: Sequence[str], *changes: str) -> str:
    """Train on the hosts, rank 0 on the first, and give what was said."""
    point = disk.parent / "run"
    point.mkdir(exist_ok=True)
    view = f'mount --bind "{disk.parent}/$(hostname)" {point} && exec "$@"'
    settings = [word for each in (*QUICK, *changes) for word in ("--set", each)]
    words = [sys.executable, "-m", "dathvd", "train", "--run-dir", str(point / "run")]
    ranks = entry.mpirun_command(
        rig.folder, hosts, ["sh", "-c", view, "sh", *words, *settings]
    )
    done = subprocess.run(
        rig.command(hosts[0], ranks),
        env=environment({"PYTHONPATH": os.getcwd()}),
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(build(tmp_path), tmp_path, 30, names=HOSTS):
        yield tmp_path / "disk"


def test_rank_0_moves_to_the_other_host_and_goes_back(disk: Path) -> None:
    """It publishes anew the step that the host it left has just published."""
    run = disk / "run"
    with Rig.create(2) as rig:
        train(rig, disk, HOSTS, "train.max_steps=6")
        newest = checkpoint.find_checkpoints(run)[-1]
        os.truncate(newest / "rank-00001.pt", 100)
        said = train(rig, disk, HOSTS[::-1])
    assert "kept as .step-00000006.damaged, taking step-00000003" in said
    assert "going on from" in said and read_result(run) is not None
    names = [checkpoint.step_of(folder) for folder in checkpoint.find_checkpoints(run)]
    assert names == [6, 9]
    for folder in checkpoint.find_checkpoints(run):
        checkpoint.load_whole(folder / "model.pt")
        for rank in (0, 1):
            checkpoint.load_file(folder / f"rank-{rank:05d}.pt")
