"""Bad input on several ranks: one line, exit code 2, every rank ended, no rest."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import horovod.torch as hvd
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from dathvd.config import load_config
from dathvd.runtime import Runtime
from dathvd.training.run import train
from tests.parallel.test_train import QUICK
from tests.processes import DATHVD, Finished, horovodrun, mpirun, run

ALONE = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)
LIMIT = 30  # seconds from the error until every rank has ended


def refused(done: Finished, *words: str, code: int = 2) -> str:
    """The one line that the command printed, which holds the words."""
    assert done.code == code, done.output
    assert done.seconds_after_error < LIMIT, done.output
    assert "Traceback" not in done.output
    lines = [line for line in done.output.splitlines() if "dathvd: error:" in line]
    assert len(lines) == 1, done.output
    for word in words:
        assert word in lines[0], done.output
    return lines[0]


def assert_refused(*arguments: str, words: tuple[str, ...], size: int = 2) -> str:
    """Run ``dathvd`` on some ranks and see it refuse."""
    command = [DATHVD, *arguments]
    done = mpirun(size, command) if size > 1 else run(command)
    return refused(done, *words)


def image_folder(root: Path, classes: int = 2, count: int = 4) -> Path:
    """A small data set of random images."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def with_folder(root: Path) -> list[str]:
    """Arguments that train on an image folder."""
    return [*QUICK, "--set", "data.name=image_folder", "--set", f"data.root={root}"]


def test_a_missing_folder(tmp_path: Path) -> None:
    root = tmp_path / "nowhere"
    run_dir = tmp_path / "run"
    arguments = ["train", "--run-dir", str(run_dir), *with_folder(root)]
    assert_refused(*arguments, words=("nowhere", "is not a folder"))
    assert not run_dir.exists()


@pytest.mark.parametrize("fault", ["unreadable", "empty class"])
def test_a_broken_data_set(tmp_path: Path, fault: str) -> None:
    root = image_folder(tmp_path / "data")
    broken = root / "train" / "class1"
    if fault == "unreadable":
        (broken / "2.png").write_bytes(b"\x89PNG not really")
        words = ["class1/2.png"]
    else:
        for file in broken.iterdir():
            file.unlink()
        words = ["class1", "holds no images"]
    run_dir = tmp_path / "run"
    arguments = ["train", "--run-dir", str(run_dir), *with_folder(root)]
    assert_refused(*arguments, words=tuple(words), size=1)
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("attack.epsilon=-0.1", ("attack.epsilon", "greater than or equal to 0")),
        ("train.epochz=3", ("train.epochz", "did you mean 'epochs'")),
    ],
)
def test_an_impossible_setting_before_any_work(
    tmp_path: Path, setting: str, words: tuple[str, ...]
) -> None:
    run_dir = tmp_path / "run"
    assert_refused("train", "--run-dir", str(run_dir), "--set", setting, words=words)
    assert not run_dir.exists()


def test_wrong_yaml(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("train: [1,\n")
    assert_refused("train", "--config", str(file), words=("bad.yaml", "line 2"), size=1)


def test_a_batch_smaller_than_the_number_of_workers(tmp_path: Path) -> None:
    setting = ["--set", "train.batch_size=2"]
    words = ("train.batch_size", "at least 3")
    arguments = ["train", "--run-dir", str(tmp_path / "run"), *QUICK, *setting]
    assert_refused(*arguments, words=words, size=3)


def test_horovodrun_over_gloo_passes_the_line_on(tmp_path: Path) -> None:
    command = [DATHVD, "train", *QUICK, "--set", "train.batch_size=1"]
    done = horovodrun(2, [*command, "--run-dir", str(tmp_path)], controller="gloo")
    lines = [line for line in done.output.splitlines() if "dathvd: error:" in line]
    assert done.code != 0 and done.seconds_after_error < LIMIT
    assert len(lines) == 1 and "train.batch_size" in lines[0], done.output


def leave_after_a_step(folder: Path, *overrides: str) -> None:
    """Train alone, in this process, and leave a checkpoint."""
    hvd.init()
    quick = [word for word in QUICK if word != "--set"]
    config = load_config(None, [*quick, "train.max_steps=1", *overrides])
    assert not train(config, folder, ALONE)


def test_a_run_folder_of_another_configuration(tmp_path: Path) -> None:
    leave_after_a_step(tmp_path)
    words = ("another configuration", "model.width: 4 there, 5 here")
    setting = ["--set", "model.width=5"]
    assert_refused(
        "train", "--run-dir", str(tmp_path), *QUICK, *setting, words=words, size=1
    )


def test_checkpoints_of_another_model_and_corrupted(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    leave_after_a_step(mine)
    leave_after_a_step(other, "model.width=5")
    name = Path("checkpoints") / "step-00000001" / "model.pt"
    (mine / name).write_bytes((other / name).read_bytes())
    arguments = ["train", "--run-dir", str(mine), *QUICK]
    assert_refused(*arguments, words=("model.pt", "another model"))
    (mine / name).write_bytes((other / name).read_bytes()[:-100])
    assert_refused(*arguments, words=("model.pt", "corrupted"))


def test_an_unwritable_folder() -> None:
    words = ("cannot create folder /proc/nothing/run",)
    assert_refused("train", "--run-dir", "/proc/nothing/run", *QUICK, words=words)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(full_disk: Path) -> None:
    run_dir = full_disk / "run"
    setting = ["--set", "model.width=32"]
    words = ("cannot write", "No space left on device")
    assert_refused("train", "--run-dir", str(run_dir), *QUICK, *setting, words=words)
    assert not list((run_dir / "checkpoints").iterdir())
    assert not (run_dir / "result.json").exists()


FAULT = """
import sys
from dathvd import ranks
from dathvd.__main__ import main
from dathvd.training.step import Trainer

step, calls = Trainer.step, 0

def broken(self, *arguments):
    global calls
    calls += 1
    if calls == 3 and ranks.launched_rank() == 1:
        raise RuntimeError("the fan fell off")
    step(self, *arguments)

Trainer.step = broken
main()
"""


@pytest.mark.parametrize("controller", ["mpi", "gloo"])
def test_a_rank_that_raises_ends_all_with_its_message(
    controller: str, tmp_path: Path
) -> None:
    script = tmp_path / "fault.py"
    script.write_text(FAULT)
    run_dir = tmp_path / "run"
    command = [sys.executable, str(script), "train", "--run-dir", str(run_dir), *QUICK]
    if controller == "mpi":
        done = mpirun(3, command)
        assert done.code == 1, done.output
    else:
        done = horovodrun(3, command, controller="gloo")
        assert done.code != 0, done.output
    assert done.seconds_after_error < LIMIT, done.output
    assert "[rank 1] dathvd: error: RuntimeError: the fan fell off" in done.output
    left = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if str(run_dir) in (process.info["cmdline"] or [])
    ]
    assert not left
    assert not (run_dir / "result.json").exists()
