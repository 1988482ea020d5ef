"""Every launcher that one machine can run, and many ranks, as the README has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import DATHVD, SCRIPTS, environment, run

ROOT = Path(__file__).parents[2]
VENV = Path(sys.executable).parents[1]
QUICK = [
    "--set", "data.name=synthetic", "--set", "data.image_size=8",
    "--set", "data.num_train=64", "--set", "data.num_test=16",
    "--set", "train.batch_size=32", "--set", "model.width=4",
    "--set", "train.epochs=1", "--set", "attack.num_steps=1",
    "--set", "evaluation.attack.num_steps=1",
    "--set", "evaluation.pictures=false",
]  # fmt: skip
FORMS: dict[str, tuple[list[str], dict[str, str], int]] = {
    "local": ([str(ROOT / "launchers" / "local" / "train.sh")], {"NP": "2"}, 2),
    "mpi": ([str(ROOT / "launchers" / "mpi" / "train.sh")], {"NP": "2"}, 2),
    "mpirun": (["mpirun", "--oversubscribe", "-np", "4", DATHVD, "train"], {}, 4),
    "one": ([DATHVD, "train"], {}, 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_leaves_the_same_kind_of_run_folder(
    tmp_path: Path, form: str
) -> None:
    start, env, size = FORMS[form]
    run_dir = tmp_path / "run"
    done = run(
        [*start, "--run-dir", str(run_dir), *QUICK],
        cwd=tmp_path,
        env={"VENV": str(VENV), **env},
    )
    assert done.code == 0, done.output
    assert json.loads((run_dir / "result.json").read_text())["num_workers"] == size
    names = {entry.name for entry in run_dir.iterdir()}
    assert names >= {"config.yaml", "metrics.jsonl", "checkpoints", "result.json"}


@pytest.mark.slow
def test_sixteen_ranks(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = [str(SCRIPTS / "horovodrun"), "-np", "16", DATHVD, "train"]
    done = run(
        [*command, "--run-dir", str(run_dir), *QUICK],
        cwd=tmp_path,
        timeout=300,
    )
    assert done.code == 0, done.output
    assert json.loads((run_dir / "result.json").read_text())["num_workers"] == 16


def test_make_train_sets_up_and_trains(tmp_path: Path) -> None:
    if VENV != ROOT / ".venv":
        pytest.skip("the tests run in another environment than the Makefile's")
    arguments = " ".join(["--run-dir", str(tmp_path / "run"), *QUICK])
    done = subprocess.run(
        ["make", "-C", str(ROOT), "train", f"ARGS={arguments}"],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.image
@pytest.mark.slow
@pytest.mark.timeout(9000)
@pytest.mark.skipif(
    os.environ.get("DATHVD_TEST_IMAGE") != "1",
    reason="set DATHVD_TEST_IMAGE=1 (needs an engine and a base image; ten minutes)",
)
def test_the_image_trains_and_passes_its_tests(tmp_path: Path) -> None:
    """Uses docker/engine.sh's own variables for the engine, its flags and the variant.

    Without a registry, a base of packages does:
    ``SUITE=noble docker/bootstrap-base.sh NAME``, then ``VARIANT=cuda BUILD_IMAGE=NAME
    RUNTIME_IMAGE=NAME``: Horovod is built with NCCL, and trains on the CPU.
    """
    env = {**os.environ, "RUNS": str(tmp_path)}
    train = f"ARGS=--run-dir runs/image {' '.join(QUICK)}"
    for words in (
        ["docker-build"],
        ["docker-train", train],
        ["docker-test", "ARGS=-q tests/single/test_config.py"],
    ):
        done = run(["make", "-C", str(ROOT), *words], env=env, timeout=6000)
        assert done.code == 0, done.output[-6000:]
    result = json.loads((tmp_path / "image" / "result.json").read_text())
    assert result["num_workers"] == 2
    command = [str(ROOT / "docker" / "engine.sh"), "run", "horovodrun", "--check-build"]
    built = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert "[X] MPI" in built.stdout and "[X] Gloo" in built.stdout
    assert ("[X] NCCL" in built.stdout) == (env.get("VARIANT") == "cuda"), built.stdout


MACHINES = {
    "bookworm": {"RUN_AS": "user"},
    "trixie": {"RUN_AS": "root"},
    "noble": {"RUN_AS": "root", "DATHVD_CUDA": "1"},
}


@pytest.mark.image
@pytest.mark.slow
@pytest.mark.root
@pytest.mark.timeout(4000)
@pytest.mark.needs("debootstrap")
@pytest.mark.skipif(
    os.environ.get("DATHVD_TEST_MACHINES") != "1",
    reason="set DATHVD_TEST_MACHINES=1 (needs debootstrap; ten minutes a machine)",
)
@pytest.mark.parametrize("suite", MACHINES)
def test_a_new_machine_sets_up_trains_and_passes_the_quick_tests(suite: str) -> None:
    """One of them as an ordinary user without sudo, one with NCCL from pip's CUDA."""
    work = 'make train ARGS="--set train.epochs=2" && make test-fast'
    work += " && .venv/bin/horovodrun --check-build"
    done = subprocess.run(
        [str(ROOT / "launchers" / "fresh-machine.sh"), suite, work],
        env={**os.environ, **MACHINES[suite]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert ("[X] NCCL" in done.stdout) == ("DATHVD_CUDA" in MACHINES[suite])
