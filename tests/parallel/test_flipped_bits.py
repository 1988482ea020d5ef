"""A bit that one rank's memory loses is noticed, never saved, and left behind."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.own_package import write_package
from tests.processes import DATHVD, Finished, run

# 8 steps, 4 an epoch; compared every third step, saved at the fourth and the last
QUICK = [
    "data.name=synthetic", "data.image_size=8", "data.num_train=64",
    "data.num_test=8", "train.batch_size=16", "model.width=4", "train.epochs=2",
    "train.check_every=3", "train.checkpoint_every=1", "attack.num_steps=1",
    "evaluation.attack.num_steps=1", "evaluation.attack.restarts=1",
    "evaluation.pictures=false",
    "optimizer.name=outside.flips:FlipsABit", "optimizer.lr=0.003",
]  # fmt: skip


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    path = write_package(tmp_path_factory.mktemp("own"))
    before = os.environ.get("PYTHONPATH", "")
    yield {"PYTHONPATH": f"{path}{os.pathsep}{before}", "OMP_NUM_THREADS": "1"}


def train(folder: Path, env: dict[str, str], faults: list[dict[str, Any]]) -> Finished:
    overrides = [*QUICK, f"optimizer.options={json.dumps({'faults': faults})}"]
    words = [word for each in overrides for word in ("--set", each)]
    launch = [DATHVD, "launch", "-np", "2", "--max-restarts", "3", "--", "train"]
    return run([*launch, "--run-dir", folder, *words], env=env, timeout=300)


def sha256(folder: Path) -> str:
    return str(json.loads((folder / "result.json").read_text())["parameters_sha256"])


@pytest.mark.slow
def test_a_flipped_bit_is_not_laundered_by_a_restart(
    tmp_path: Path, env: dict[str, str]
) -> None:
    """Three in one run: no matter which, what goes on has none of them."""
    where = [
        (1, 2, "weight", "step 3"),  # seen by the comparison now and then
        (0, 4, "weight", "step 4"),  # before the checkpoint of that step
        (0, 8, "average", "step 8"),  # weights are equal, what is saved is not
    ]
    faults: list[dict[str, Any]] = [
        {"rank": rank, "after": after, "where": part, "mark": str(tmp_path / step)}
        for rank, after, part, step in where
    ]
    done = train(tmp_path / "run", env, faults)
    assert done.code == 0, done.output
    said = re.findall(r"(step \d+): workers hold different weights", done.output)
    assert list(dict.fromkeys(said)) == ["step 3", "step 4", "step 8"], done.output
    assert all(Path(fault["mark"]).exists() for fault in faults)
    undisturbed = train(tmp_path / "undisturbed", env, [])
    assert undisturbed.code == 0, undisturbed.output
    assert sha256(tmp_path / "run") == sha256(tmp_path / "undisturbed")
