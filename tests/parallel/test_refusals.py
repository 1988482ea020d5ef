"""Bad input on several ranks: one line, exit code 2, every rank ended, no rest."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import horovod.torch as hvd
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from dathvd import run_lock
from dathvd.config import load_config
from dathvd.runtime import Runtime
from dathvd.training.run import train
from tests.parallel.commands import run_commands
from tests.parallel.test_train import QUICK
from tests.processes import (
    DATHVD,
    Finished,
    horovodrun,
    mpirun,
    run,
    still_running,
)

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


@dataclass(frozen=True)
class Faulty:
    """A command that must be refused, the words of its line, and what was not made."""

    arguments: list[str]
    words: tuple[str, ...]
    absent: Path | None = None

    def assert_refused(self, done: Finished) -> None:
        """The command printed that line and left nothing."""
        refused(done, *self.words)
        assert self.absent is None or not self.absent.exists()


def a_missing_folder(folder: Path) -> Faulty:
    arguments = ["train", "--run-dir", str(folder / "run")]
    arguments += with_folder(folder / "nowhere")
    return Faulty(arguments, ("nowhere", "is not a folder"), folder / "run")


def an_unreadable_image(folder: Path) -> Faulty:
    root = image_folder(folder / "data")
    (root / "train" / "class1" / "2.png").write_bytes(b"\x89PNG not really")
    arguments = ["train", "--run-dir", str(folder / "run"), *with_folder(root)]
    return Faulty(arguments, ("class1/2.png",), folder / "run")


def an_empty_class(folder: Path) -> Faulty:
    root = image_folder(folder / "data")
    for file in (root / "train" / "class1").iterdir():
        file.unlink()
    arguments = ["train", "--run-dir", str(folder / "run"), *with_folder(root)]
    return Faulty(arguments, ("class1", "holds no images"), folder / "run")


def a_run_folder_of_another_configuration(folder: Path) -> Faulty:
    leave_after_a_step(folder)
    words = ("another configuration", "model.width: 4 there, 5 here")
    setting = ["--set", "model.width=5"]
    return Faulty(["train", "--run-dir", str(folder), *QUICK, *setting], words)


def a_checkpoint_of_another_model(folder: Path) -> Faulty:
    mine, other = folder / "mine", folder / "other"
    leave_after_a_step(mine)
    leave_after_a_step(other, "model.width=5")
    (mine / MODEL).write_bytes((other / MODEL).read_bytes())
    arguments = ["train", "--run-dir", str(mine), *QUICK]
    return Faulty(arguments, ("model.pt", "another model"))


def a_corrupted_checkpoint(folder: Path) -> Faulty:
    leave_after_a_step(folder)
    (folder / MODEL).write_bytes((folder / MODEL).read_bytes()[:-100])
    arguments = ["train", "--run-dir", str(folder), *QUICK]
    return Faulty(arguments, ("model.pt", "corrupted"))


def an_unwritable_folder(folder: Path) -> Faulty:
    arguments = ["train", "--run-dir", "/proc/nothing/run", *QUICK]
    return Faulty(arguments, ("cannot create folder /proc/nothing/run",))


MODEL = Path("checkpoints") / "step-00000001" / "model.pt"
FAULTS = (
    a_missing_folder,
    an_unreadable_image,
    an_empty_class,
    a_run_folder_of_another_configuration,
    a_checkpoint_of_another_model,
    a_corrupted_checkpoint,
    an_unwritable_folder,
)


@pytest.fixture(scope="module")
def outcomes(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[Faulty, Finished]]:
    """What two ranks say to every fault, one after the other."""
    faults = {
        make.__name__: make(tmp_path_factory.mktemp(make.__name__)) for make in FAULTS
    }
    done = run_commands(2, *(fault.arguments for fault in faults.values()))
    return dict(zip(faults, zip(faults.values(), done), strict=True))


@pytest.mark.parametrize("name", [make.__name__ for make in FAULTS])
def test_a_fault_that_every_rank_learns_of(
    name: str, outcomes: dict[str, tuple[Faulty, Finished]]
) -> None:
    fault, done = outcomes[name]
    fault.assert_refused(done)


def test_what_all_ranks_know_is_not_waited_for(
    outcomes: dict[str, tuple[Faulty, Finished]],
) -> None:
    """They end as soon as rank 0 has said it, not after seconds of grace."""
    assert min(done.seconds_after_error for _, done in outcomes.values()) < 1.5


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
    run_lock.release()  # other processes go on with it


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
    ranks = [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(run_dir) in (process.info["cmdline"] or [])
    ]
    assert not still_running(ranks, 10)  # mpirun does not see to the end of the killed
    assert not (run_dir / "result.json").exists()
