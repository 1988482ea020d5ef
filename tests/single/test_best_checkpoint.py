"""The best checkpoint: which one it is, that it stays, and what is said of it."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dathvd
from dathvd import checkpoint, stop
from dathvd.checkpoint import (
    checkpoint_folder,
    find_checkpoints,
    load_file,
    resolve,
    step_of,
)
from dathvd.config import load_config
from dathvd.errors import UserError
from dathvd.hashing import parameters_sha256
from dathvd.ranks import HOT_EVERY
from dathvd.report.tables import print_accuracy
from dathvd.run_folder import read_result
from dathvd.runtime import Runtime, start
from dathvd.training.guard import Guard
from dathvd.training.run import train

QUICK = [
    "data.name=synthetic", "data.image_size=8", "data.num_train=46",
    "data.num_test=16", "train.batch_size=16", "model.width=4",
    "attack.num_steps=1", "attack.epsilon=0.1", "train.epochs=4",
    "train.guard.num_samples=14", "train.select=best", "train.ema_decay=0.5",
    "train.checkpoint_every=0", "train.keep_checkpoints=1",
    "evaluation.attack.num_steps=1", "evaluation.attack.restarts=1",
    "train.device=cpu",
    "evaluation.pictures=false",
]  # fmt: skip
PROBED = {0: 0.1, 2: 0.2, 4: 0.6, 6: 0.6, 8: 0.3}
"""Robust accuracy after each epoch of two steps; 4 is the first of the best."""


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """The only worker, in a process whose signals are the test's."""
    monkeypatch.setattr(stop, "listen", lambda: None)
    monkeypatch.setattr(stop, "leave_when_asked", lambda: None)
    return start("cpu")


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes that find what the table says."""

    def look(self: Guard, model: nn.Module, step: int) -> bool:
        return self.judge(PROBED[step], step)

    monkeypatch.setattr(Guard, "look", look)


def trained(folder: Path, runtime: Runtime, *overrides: str) -> dict[str, Any]:
    train(load_config(None, [*QUICK, *overrides]), folder, runtime)
    return read_result(folder) or {}


def kept(run: Path) -> list[int]:
    return [step_of(path) for path in find_checkpoints(run)]


@pytest.mark.usefixtures("probed")
def test_it_stays_beside_the_newest_and_both_are_judged(
    tmp_path: Path, alone: Runtime, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    result = trained(run, alone)
    assert kept(run) == [4, 8]
    assert result["best_step"] == 4 and result["best_probe_robust_accuracy"] == 0.6
    best, last = dathvd.load_model(run, checkpoint="best"), dathvd.load_model(run)
    assert result["best_parameters_sha256"] == parameters_sha256(best)
    assert result["parameters_sha256"] == parameters_sha256(last)
    assert parameters_sha256(best) != parameters_sha256(last)
    averaged = dathvd.load_model(run, "ema", checkpoint="best")
    assert result["best_ema_parameters_sha256"] == parameters_sha256(averaged)
    # what was chosen is what the run was after that step, not what it became
    early = trained(tmp_path / "early", alone, "train.max_steps=4")
    assert early == {} and kept(tmp_path / "early") == [4]
    assert parameters_sha256(dathvd.load_model(tmp_path / "early")) == (
        parameters_sha256(best)
    )
    print_accuracy(result, title="")
    assert "robust, best checkpoint (step 4)" in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("probed")
@pytest.mark.parametrize("left_after", [1, 5, 6])
def test_a_run_that_was_left_chooses_the_same(
    tmp_path: Path, alone: Runtime, left_after: int
) -> None:
    whole, left = tmp_path / "whole", tmp_path / "left"
    expected = trained(whole, alone)
    trained(left, alone, f"train.max_steps={left_after}")
    result = trained(left, alone)
    for name in expected:
        if name not in ("train_seconds", "images_per_second"):
            assert result[name] == expected[name], name
    assert kept(left) == kept(whole)


@pytest.mark.usefixtures("probed")
def test_a_best_one_that_is_gone_is_chosen_anew(
    tmp_path: Path, alone: Runtime, capfd: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path, alone, "train.max_steps=5")
    shutil.rmtree(checkpoint_folder(tmp_path, 4))
    with pytest.raises(UserError, match="its best checkpoint, step-00000004, is not"):
        resolve(tmp_path, "best")
    result = trained(tmp_path, alone)
    assert "choosing anew" in capfd.readouterr().out
    assert result["best_step"] == 6 and kept(tmp_path) == [6, 8]


@pytest.mark.usefixtures("probed")
def test_a_best_one_that_a_crash_left_unwritten_is_reached_again(
    tmp_path: Path, alone: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state in memory may be of a later step than the checkpoint that it names."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    expected = trained(whole, alone)
    monkeypatch.setenv(HOT_EVERY, "1")
    with monkeypatch.context() as patch:
        write = checkpoint.write_rank_files

        def slow(final: Path, *args: Any, **parts: Any) -> None:
            if step_of(final) != 4:
                write(final, *args, **parts)
            else:
                threading.Event().wait(30)

        def crash(self: Guard, model: nn.Module, step: int) -> bool:
            if step == 6:
                threading.Event().wait(1)  # the state of step 5 is in memory by now
                raise KeyError("crash")
            return self.judge(PROBED[step], step)

        patch.setattr(checkpoint, "write_rank_files", slow)
        patch.setattr(Guard, "look", crash)
        with pytest.raises(KeyError):
            trained(run, alone)
    result = trained(run, alone)
    assert result["best_step"] == 4 and kept(run) == [4, 8]
    for name in ("parameters_sha256", "best_parameters_sha256"):
        assert result[name] == expected[name]


def test_the_probe_measures_held_out_images_without_a_guard(
    tmp_path: Path, alone: Runtime
) -> None:
    result = trained(tmp_path, alone, "train.epochs=1")
    assert result["guard"]["collapses"] == []
    state = load_file(find_checkpoints(tmp_path)[-1] / "model.pt")["guard"]
    best = state["best_accuracy"]
    assert best == result["best_probe_robust_accuracy"]
    assert (best * 14) == pytest.approx(round(best * 14)), "a share of 14 images"


@pytest.mark.usefixtures("probed")
def test_without_select_there_is_none(tmp_path: Path, alone: Runtime) -> None:
    result = trained(tmp_path, alone, "train.select=last", "train.epochs=1")
    assert not any(name.startswith("best") for name in result)
    with pytest.raises(UserError, match="no best checkpoint.*train.select last"):
        dathvd.load_model(tmp_path, checkpoint="best")
    (only,) = find_checkpoints(tmp_path)
    with pytest.raises(UserError, match="is one checkpoint; the best is chosen of a"):
        dathvd.load_model(only, checkpoint="best")


@pytest.mark.parametrize("setting", ["attack.name=none", "objective.name=contrastive"])
def test_where_nothing_is_robust_nothing_is_chosen(setting: str) -> None:
    with pytest.raises(UserError, match="train.select: there is no robust accuracy"):
        load_config(None, ["train.select=best", setting])


def test_a_guard_of_none_sees_no_collapse() -> None:
    config = load_config(None, ["train.select=best"])
    images: Any = None
    guard = Guard(config, images, Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1))
    assert [guard.judge(value, step) for step, value in enumerate((0.9, 0.1))] == [
        False,
        False,
    ]
    assert guard.collapses == [] and guard.selected_step == 0
