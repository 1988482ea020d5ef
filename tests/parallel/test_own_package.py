"""A user's own package of components: trained, resumed and judged by real commands."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import pytest

import dathvd
from dathvd.checkpoint import find_checkpoints
from tests.own_package import COMPONENTS, as_arguments, settings, write_package
from tests.parallel.commands import run_commands
from tests.processes import DATHVD, Finished, horovodrun, run

TRAIN = [DATHVD, "train", *as_arguments(settings())]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the package."""
    return write_package(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def env(path: Path) -> dict[str, str]:
    """What makes the package importable in the processes that are started."""
    before = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": f"{path}{os.pathsep}{before}"}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Path:
    """A run of two ranks, by ``dathvd launch``."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    words = [DATHVD, "launch", "-np", "2", "--", "train", "--run-dir", str(folder)]
    finish(run([*words, *TRAIN[2:]], env=env))
    return folder


def finish(done: Finished) -> Finished:
    assert done.code == 0, done.output
    return done


def result(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "result.json").read_text()))


def errors(done: Finished) -> list[str]:
    """The lines of all ranks that report an error."""
    return [line for line in done.stderr.splitlines() if "dathvd: error:" in line]


@pytest.fixture(scope="module")
def judged(two: Path, env: dict[str, str]) -> dict[str, Finished]:
    """What two ranks say of that run, without and with trust, to a name that is
    wrong, and to a run that they leave for others."""
    wrong = ["--set", "model.name=outside.nets:make_netwrk"]
    words = [*TRAIN[1:], "--run-dir", str(two.parent / "wrong"), *wrong]
    left = [*TRAIN[1:], "--run-dir", str(two.parent / "left")]
    trusted = ["evaluate", str(two), "--trust"]
    commands = {
        "untrusted": ["evaluate", str(two)],
        "wrong": words,
        "trusted": [*trusted, "--json", str(two.parent / "trusted.json")],
        "left": [*left, "--set", "train.max_steps=4"],
    }
    done = run_commands(2, *commands.values(), env=env)
    return dict(zip(commands, done, strict=True))


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]
) -> tuple[Path, Finished, Finished]:
    """A run of one process, what it printed, and what a benchmark did."""
    folder = tmp_path_factory.mktemp("alone")
    times = ["benchmark-step", "--warmup", "0", "--repeats", "1", *TRAIN[2:]]
    train = [*TRAIN[1:], "--run-dir", str(folder)]
    trained, timed = run_commands(1, train, times, env=env)
    return folder, finish(trained), finish(timed)


def test_a_run_of_ones_own_components_alone(
    alone: tuple[Path, Finished, Finished],
) -> None:
    folder, done, _ = alone
    assert "shortened by" in done.stdout and "0 values in 0 buckets" not in done.stdout
    assert "outside.updates:SignDescent" in done.stdout
    # it is judged in the ball that it was trained in
    assert result(folder)["attack"] == "Corner(epsilon=0.05)"
    assert float(str(result(folder)["clean_accuracy"])) > 0.5


def test_a_resumed_run_equals_one_never_stopped_under_any_launcher(
    two: Path, judged: dict[str, Finished], env: dict[str, str]
) -> None:
    finish(judged["left"])
    folder = two.parent / "left"
    assert [found.name for found in find_checkpoints(folder)][-1] == "step-00000004"
    resumed = finish(horovodrun(2, [*TRAIN, "--run-dir", str(folder)], env=env))
    assert "going on from" in resumed.stdout
    whole, again = result(two), result(folder)
    for name in ("parameters_sha256", "clean_accuracy", "robust_accuracy"):
        assert again[name] == whole[name]


def test_evaluate_asks_for_trust_on_every_rank(judged: dict[str, Finished]) -> None:
    done = judged["untrusted"]
    assert done.code == 2, done.output
    (line,) = errors(done)
    for section in ("model", "data", "evaluation.attack"):
        assert f"{section}.name {COMPONENTS[section]}" in line
    assert "--trust" in line
    # it needs neither of them
    assert "objective" not in line and "optimizer" not in line


def test_a_trusted_run_is_judged_as_at_its_end(
    two: Path, judged: dict[str, Finished]
) -> None:
    finish(judged["trusted"])
    again, whole = json.loads((two.parent / "trusted.json").read_text()), result(two)
    for name in ("parameters_sha256", "clean_accuracy", "robust_accuracy", "attack"):
        assert again[name] == whole[name]


def test_the_network_is_loaded_into_one_that_is_given(
    two: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(path))
    nets = importlib.import_module("outside.nets")
    network = nets.make_network((1, 6, 6), 3, hidden=40)
    model = dathvd.load_model(two, network=network)
    assert model is network and not model.training


def test_a_wrong_name_is_one_line_and_exit_code_2_from_every_rank(
    two: Path, judged: dict[str, Finished]
) -> None:
    done = judged["wrong"]
    assert done.code == 2, done.output
    (line,) = errors(done)
    assert line == (
        "dathvd: error: model.name: outside.nets:make_netwrk: outside.nets has no "
        "attribute 'make_netwrk' (did you mean 'make_network'?)"
    )
    assert not (two.parent / "wrong").exists()


def test_a_benchmark_times_ones_own_components(
    alone: tuple[Path, Finished, Finished],
) -> None:
    assert "outside.nets:make_network" in alone[2].stdout
