"""Checkpoints are written beside the steps, and the disk's errors are heard."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import pytest
import torch

from dathvd import checkpoint
from dathvd.config import load_config
from dathvd.data import load_dataset
from dathvd.errors import UserError
from dathvd.hashing import parameters_sha256
from dathvd.run_folder import read_result
from dathvd.runtime import Runtime
from dathvd.training.run import train
from dathvd.training.saver import Saver
from dathvd.training.saving import restore
from dathvd.training.state import TrainingState
from dathvd.training.workers import build_state

ALONE = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)
QUICK = [
    "data.name=synthetic", "data.image_size=8", "data.num_train=64",
    "data.num_test=8", "train.batch_size=16", "model.width=4", "train.epochs=2",
    "attack.num_steps=1", "evaluation.attack.num_steps=1", "train.ema_decay=0.5",
    "evaluation.attack.restarts=1", "train.checkpoint_every=0",
]  # fmt: skip


@pytest.fixture(autouse=True)
def horovod() -> None:
    """Started; more often does nothing."""
    hvd.init()


@pytest.fixture
def state() -> TrainingState:
    config = load_config(None, QUICK)
    return build_state(config, load_dataset(config.data), ALONE)


def test_training_goes_on_while_the_copy_is_written(
    state: TrainingState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, good = threading.Event(), checkpoint.save_file

    def slow(path: Path, values: dict[str, Any]) -> None:
        assert may_write.wait(60)
        good(path, values)

    monkeypatch.setattr(checkpoint.folders, "save_file", slow)
    saver, before = Saver(state, tmp_path, ALONE), parameters_sha256(
        state.trainer.model
    )
    final = saver.begin()
    with torch.no_grad():  # the next steps change what was copied
        for tensor in state.trainer.model.state_dict().values():
            tensor.zero_()
    assert saver.votes()[0] is False
    saver.publish_if_written(1)
    assert not final.exists()
    may_write.set()
    saver.finish()
    again = build_state(state.config, load_dataset(state.config.data), ALONE)
    restore(again, final, ALONE)
    assert parameters_sha256(again.trainer.model) == before


def test_it_is_published_when_it_is_written_and_not_before(
    state: TrainingState, tmp_path: Path
) -> None:
    saver = Saver(state, tmp_path, ALONE)
    final = saver.begin()
    thread = saver._pending
    assert thread is not None
    thread.write.join()
    for _ in range(2):  # votes are read a step later
        assert not final.exists()
        written, _late = saver.votes()
        saver.publish_if_written(int(written))
    assert final.is_dir()


def test_votes_for_one_checkpoint_do_not_publish_the_next(
    state: TrainingState, tmp_path: Path
) -> None:
    saver = Saver(state, tmp_path, ALONE)
    first = saver.begin()
    assert saver._pending is not None
    saver._pending.write.join()
    assert saver.votes()[0]
    state.step = 1
    second = saver.begin()
    assert first.is_dir()
    saver.votes()
    saver.publish_if_written(1)
    assert not second.exists()
    saver.finish()
    assert second.is_dir()


def test_a_full_disk_is_one_line_and_leaves_nothing(
    state: TrainingState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    saver = Saver(state, tmp_path, ALONE)
    monkeypatch.setattr(os, "fsync", full)
    saver.begin()
    with pytest.raises(UserError, match="cannot write .*: No space left on device"):
        saver.finish()
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.slow
def test_minutes_decide_when_but_not_what(tmp_path: Path) -> None:
    hashes = {}
    for name, minutes in (("never", "0"), ("often", "1e-9")):
        folder, when = tmp_path / name, f"train.checkpoint_minutes={minutes}"
        config = load_config(None, [*QUICK, when, "train.keep_checkpoints=9"])
        assert train(config, folder, ALONE)
        hashes[name] = (read_result(folder) or {})["parameters_sha256"]
    assert len(set(hashes.values())) == 1
    assert len(checkpoint.find_checkpoints(tmp_path / "never")) == 1
    assert len(checkpoint.find_checkpoints(tmp_path / "often")) >= 4
