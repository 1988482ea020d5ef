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
from tests.parallel.commands import run_commands
from tests.processes import DATHVD, Finished, horovodrun, mpirun

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
    "--set", "evaluation.pictures=false",
]  # fmt: skip


Runs = dict[str, Path]


def train(folder: Path, *more: str) -> list[str]:
    """The command that trains there."""
    return ["train", "--run-dir", str(folder), *QUICK, *more]


def evaluate(runs: Runs, size: int) -> list[str]:
    """The command by which so many workers judge the run of two."""
    file = runs["two"].parent / f"by-{size}.json"
    return ["evaluate", str(runs["two"]), "--json", str(file)]


def result(folder: Path) -> dict[str, Any]:
    """What a finished run says."""
    return dict(json.loads((folder / "result.json").read_text()))


def finish(size: int, *commands: list[str]) -> list[Finished]:
    """Run commands that must end well on so many ranks."""
    done = run_commands(size, *commands)
    for each in done:
        assert each.code == 0, each.output
    return done


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Runs of two workers: a finished one, one of another seed, one that was left."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {name: folder / name for name in ("two", "other", "left")}
    finish(
        2,
        train(runs["two"], "--set", "evaluation.pictures=true"),
        train(runs["other"], "--set", "seed=1"),
        train(runs["left"], "--set", "train.max_steps=4"),
    )
    assert not (runs["left"] / "result.json").exists()
    names = [checkpoint.name for checkpoint in find_checkpoints(runs["left"])]
    assert names[-1] == "step-00000004"
    return runs


@pytest.fixture(scope="module")
def two(runs: Runs) -> Path:
    """A finished run of two workers."""
    return runs["two"]


@pytest.fixture(scope="module")
def later(runs: Runs) -> dict[str, Any]:
    """What two other workers say who go on with each run, and judge one.

    The times of the finished run's metrics before and after are kept.
    """
    lost = shutil.copytree(runs["two"], runs["two"].parent / "lost")
    (lost / "result.json").unlink()
    for checkpoint in find_checkpoints(lost):
        (checkpoint / "rank-00001.pt").unlink()
    metrics = runs["two"] / "metrics.jsonl"
    before = metrics.stat().st_mtime_ns
    *well, refused = run_commands(
        2, train(runs["left"]), train(runs["two"]), evaluate(runs, 2), train(lost)
    )
    for each in well:
        assert each.code == 0, each.output
    times = before, metrics.stat().st_mtime_ns
    return {"refused": refused, "times": times, "evaluated": well[2]}


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


def test_another_seed_gives_another_hash(runs: Runs) -> None:
    hashes = {result(runs[name])["parameters_sha256"] for name in ("two", "other")}
    assert len(hashes) == 2


def test_a_resumed_run_equals_one_never_stopped(
    runs: Runs, later: dict[str, Any]
) -> None:
    whole, resumed = result(runs["two"]), result(runs["left"])
    assert resumed["parameters_sha256"] == whole["parameters_sha256"]
    for name in ("clean_accuracy", "robust_accuracy", "ema_robust_accuracy"):
        assert resumed[name] == whole[name]
    states = [
        load_file(find_checkpoints(runs[name])[-1] / "model.pt")
        for name in ("two", "left")
    ]
    for state in states:
        del state["config"]
    assert _equal(*states)
    rows = [json.loads(line) for line in (runs["left"] / "metrics.jsonl").open()]
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


def test_a_finished_run_is_not_trained_again(later: dict[str, Any]) -> None:
    before, after = later["times"]
    assert after == before


@pytest.fixture(scope="module", params=[1, 3])
def others(request: pytest.FixtureRequest, runs: Runs) -> tuple[Path, int, Finished]:
    """The same run of other numbers of workers, who also judge that of two."""
    size: int = request.param
    folder = runs["two"].parent / str(size)
    _, judged = finish(size, train(folder), evaluate(runs, size))
    return folder, size, judged


def test_results_do_not_depend_on_the_number_of_workers(
    two: Path, others: tuple[Path, int, Finished]
) -> None:
    """Same global batches, same random starts: equal up to the rounding of sums."""
    first, other = (dathvd.load_model(path).state_dict() for path in (two, others[0]))
    for name, value in first.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-4)


def assert_judged_alike(two: Path, size: int, done: Finished) -> None:
    """What ``evaluate`` says is what the run says of itself."""
    again = json.loads((two.parent / f"by-{size}.json").read_text())
    for name in ("clean_accuracy", "robust_accuracy", "num_samples", "attack"):
        assert again[name] == result(two)[name]
    assert again["parameters_sha256"] == result(two)["parameters_sha256"]
    assert f"{100 * result(two)['robust_accuracy']:.2f}" in done.stdout


def test_evaluate_gives_the_same_numbers_on_any_number_of_workers(
    two: Path, others: tuple[Path, int, Finished]
) -> None:
    assert_judged_alike(two, *others[1:])


def test_evaluate_gives_the_same_numbers_on_as_many_workers(
    two: Path, later: dict[str, Any]
) -> None:
    assert_judged_alike(two, 2, later["evaluated"])


@pytest.mark.parametrize("controller", ["mpi", "gloo"])
def test_horovodrun_as_written(controller: str, two: Path, tmp_path: Path) -> None:
    """Also, the same seed gives the same hash in other processes."""
    command = [DATHVD, *train(tmp_path)]
    done = horovodrun(2, command, controller=controller)
    assert done.code == 0, done.output
    again = result(tmp_path)
    assert again["num_workers"] == 2
    assert f"2 workers over {controller.upper()}" in done.stdout
    # a sum of two is the same in any order
    assert again["parameters_sha256"] == result(two)["parameters_sha256"]


def test_a_lost_part_of_a_checkpoint_is_one_line(later: dict[str, Any]) -> None:
    refused: Finished = later["refused"]
    assert refused.code == 2, refused.output
    assert refused.output.count("dathvd: error:") == 1
    assert "rank-00001.pt: No such file" in refused.output
