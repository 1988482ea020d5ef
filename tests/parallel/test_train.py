"""The main job over real MPI and Gloo: results, equality, resume, repeatability.

Runs with other features go on exactly, too: see ``test_crossings.py``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import dathvd
from dathvd.checkpoint import find_checkpoints, load_file
from dathvd.hashing import parameters_sha256
from tests.processes import DATHVD, Finished, horovodrun, mpirun, run

# a few seconds of training: 3 steps an epoch, two threads at most
QUICK = [
    "--set", "data.name=synthetic", "--set", "data.image_size=8",
    "--set", "data.num_train=90",
    "--set", "data.num_test=30", "--set", "train.batch_size=32",
    "--set", "model.width=4", "--set", "train.epochs=3",
    "--set", "attack.num_steps=2", "--set", "train.log_every=1",
    "--set", "train.checkpoint_every=1", "--set", "evaluation.batch_size=8",
    "--set", "evaluation.attack.num_steps=3", "--set", "attack.epsilon=0.1",
    "--set", "train.ema_decay=0.8",
]  # fmt: skip


def train(folder: Path, size: int = 2, *more: str, code: int = 0) -> dict[str, Any]:
    """Train under mpirun and return result.json, or {} where there is none."""
    command = [DATHVD, "train", "--run-dir", str(folder), *QUICK, *more]
    done = mpirun(size, command) if size > 1 else run(command)
    assert done.code == code, done.output
    file = folder / "result.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two workers."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    train(folder)
    return folder


def test_the_run_folder_holds_all_that_is_promised(two: Path) -> None:
    result = json.loads((two / "result.json").read_text())
    assert set(result) >= {
        "clean_accuracy", "robust_accuracy", "attack", "num_samples", "num_workers",
        "train_seconds", "images_per_second", "parameters_sha256", "versions",
    }  # fmt: skip
    assert result["num_samples"] == 30 and result["num_workers"] == 2
    for picture in ("training.png", "examples.png", "trust_ratios.png"):
        assert (two / picture).read_bytes().startswith(b"\x89PNG")
    assert list((two / "tensorboard").glob("events.*"))
    rows = [json.loads(line) for line in (two / "metrics.jsonl").open()]
    assert all(0 < row["data_seconds"] < row["seconds"] for row in rows)
    rows = [json.loads(line) for line in (two / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert all(row["bytes_sent"] > 0 for row in rows)
    layers = dict(dathvd.load_model(two).named_parameters())
    assert all(row["trust_ratios"].keys() == layers.keys() for row in rows)
    assert all(ratio > 0 for row in rows for ratio in row["trust_ratios"].values())
    assert len(find_checkpoints(two)) == 2
    assert (two / "config.yaml").exists()
    averaged = parameters_sha256(dathvd.load_model(two, weights="ema"))
    assert averaged == result["ema_parameters_sha256"] != result["parameters_sha256"]


def test_the_same_seed_gives_the_same_hash_and_another_seed_another(
    two: Path, tmp_path: Path
) -> None:
    first = json.loads((two / "result.json").read_text())["parameters_sha256"]
    assert train(tmp_path / "a")["parameters_sha256"] == first
    other = train(tmp_path / "b", 2, "--set", "seed=1")["parameters_sha256"]
    assert other != first


def test_a_resumed_run_equals_one_never_stopped(two: Path, tmp_path: Path) -> None:
    train(tmp_path, 2, "--set", "train.max_steps=4")
    assert [p.name for p in find_checkpoints(tmp_path)][-1] == "step-00000004"
    resumed = train(tmp_path)
    whole = json.loads((two / "result.json").read_text())
    assert resumed["parameters_sha256"] == whole["parameters_sha256"]
    for name in ("clean_accuracy", "robust_accuracy", "ema_robust_accuracy"):
        assert resumed[name] == whole[name]
    left, right = (
        load_file(find_checkpoints(folder)[-1] / "model.pt")
        for folder in (two, tmp_path)
    )
    for state in (left, right):
        del state["config"]
    assert _equal(left, right)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == list(range(1, 10))


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(
            _equal(left[key], right[key]) for key in left
        )
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(left == right)


def test_a_run_goes_on_with_its_workers_on_other_nodes(tmp_path: Path) -> None:
    """Two nodes of two, by two names of this host; then all four on one node."""
    nodes = ["--set", "compression.name=sign", "--set", "compression.warmup=0"]
    nodes += ["--set", "compression.exchange=hierarchical"]
    nodes += ["--set", "train.overlap=attack", "--set", "model.width=16"]
    words = ["train", "--run-dir", str(tmp_path), *QUICK, *nodes]
    hosts = ["-H", "localhost:2,127.0.0.1:2"]
    command = [*hosts, DATHVD, *words, "--set", "train.max_steps=2"]
    done = horovodrun(4, command, controller="gloo")
    assert done.code == 0, done.output
    assert "sign by hierarchical (reduce-scatter inside nodes" in done.stdout
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert "alltoall/none inside nodes" in row["traffic"]
    again = mpirun(4, [DATHVD, *words, "--set", "train.max_steps=3"])
    assert again.code == 0, again.output
    assert "all ranks are on 1 node" in again.stdout
    assert [p.name for p in find_checkpoints(tmp_path)][-1] == "step-00000003"


def test_a_finished_run_is_not_trained_again(two: Path) -> None:
    before = (two / "metrics.jsonl").stat().st_mtime_ns
    train(two)
    assert (two / "metrics.jsonl").stat().st_mtime_ns == before


def test_results_do_not_depend_on_the_number_of_workers(
    two: Path, tmp_path: Path
) -> None:
    """Same global batches, same random starts: equal up to the rounding of sums."""
    paths = [two]
    for size in (1, 3):
        train(tmp_path / str(size), size)
        paths.append(tmp_path / str(size))
    models = [dathvd.load_model(path).state_dict() for path in paths]
    for other in models[1:]:
        for name, value in models[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-4)


def test_evaluate_gives_the_same_numbers_on_any_number_of_workers(
    two: Path, tmp_path: Path
) -> None:
    result = json.loads((two / "result.json").read_text())
    for size in (1, 2, 3):
        file = tmp_path / f"{size}.json"
        command = [DATHVD, "evaluate", str(two), "--json", str(file)]
        done = mpirun(size, command) if size > 1 else run(command)
        assert done.code == 0, done.output
        again = json.loads(file.read_text())
        for name in ("clean_accuracy", "robust_accuracy", "num_samples", "attack"):
            assert again[name] == result[name]
        assert again["parameters_sha256"] == result["parameters_sha256"]
        assert f"{100 * result['robust_accuracy']:.2f}" in done.stdout


@pytest.mark.parametrize("controller", ["mpi", "gloo"])
def test_horovodrun_as_written(controller: str, tmp_path: Path) -> None:
    command = [DATHVD, "train", "--run-dir", str(tmp_path), *QUICK]
    done: Finished = horovodrun(2, command, controller=controller)
    assert done.code == 0, done.output
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["num_workers"] == 2
    assert f"2 workers over {controller.upper()}" in done.stdout


def test_a_lost_part_of_a_checkpoint_is_one_line(two: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(two, tmp_path / "run")
    (folder / "result.json").unlink()
    for checkpoint in find_checkpoints(folder):
        (checkpoint / "rank-00001.pt").unlink()
    command = [DATHVD, "train", "--run-dir", str(folder), *QUICK]
    done = mpirun(2, command)
    assert done.code == 2, done.output
    assert "rank-00001.pt: No such file" in done.output
