"""A bit that one rank's memory loses is noticed, never saved, and left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.own_package import write_package
from tests.processes import DATHVD, Finished, run

# 8 steps, 4 an epoch; compared every third step, saved at the fourth and the last
QUICK = [
    "data.name=synthetic", "data.image_size=8", "data.num_train=64",
    "data.num_test=8", "train.batch_size=16", "model.width=4", "train.epochs=2",
    "train.check_every=3", "train.checkpoint_every=1", "attack.num_steps=1",
    "evaluation.attack.num_steps=1", "evaluation.attack.restarts=1",
    "optimizer.name=outside.flips:FlipsABit", "optimizer.lr=0.003",
]  # fmt: skip


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    path = write_package(tmp_path_factory.mktemp("own"))
    before = os.environ.get("PYTHONPATH", "")
    yield {"PYTHONPATH": f"{path}{os.pathsep}{before}", "OMP_NUM_THREADS": "1"}


def train(folder: Path, env: dict[str, str], fault: str = "{}") -> Finished:
    overrides = [*QUICK, f"optimizer.options={fault}"]
    words = [word for each in overrides for word in ("--set", each)]
    launch = [DATHVD, "launch", "-np", "2", "--max-restarts", "1", "--", "train"]
    return run([*launch, "--run-dir", folder, *words], env=env, timeout=300)


def sha256(folder: Path) -> str:
    return str(json.loads((folder / "result.json").read_text())["parameters_sha256"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> str:
    """The hash that a run without a fault ends with."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = train(folder, env)
    assert done.code == 0, done.output
    return sha256(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "after", "where", "noticed"),
    [
        (1, 2, "weight", "step 3"),  # by the comparison now and then
        (0, 4, "weight", "step 4"),  # before the checkpoint of that step
        (0, 8, "average", "step 8"),  # weights are equal, what is saved is not
    ],
)
def test_a_flipped_bit_is_not_laundered_by_a_restart(
    tmp_path: Path,
    env: dict[str, str],
    undisturbed: str,
    rank: int,
    after: int,
    where: str,
    noticed: str,
) -> None:
    folder, mark = tmp_path / "run", tmp_path / "mark"
    fault = json.dumps(
        {"rank": rank, "after": after, "where": where, "mark": str(mark)}
    )
    done = train(folder, env, fault)
    assert mark.exists() and done.code == 0, done.output
    assert f"{noticed}: workers hold different weights" in done.output
    assert "restart 1 of 1" in done.output
    assert sha256(folder) == undisturbed
