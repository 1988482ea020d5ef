"""Pre-training without labels, training from it, and pseudo-labels, on two ranks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dathvd
from dathvd.checkpoint import find_checkpoints, load_file
from dathvd.data import read_extra
from tests.processes import DATHVD, mpirun, run

WORKER = Path(__file__).with_name("pretraining_worker.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the worker's two ranks have left."""
    folder = tmp_path_factory.mktemp("pretraining")
    pixels = np.random.default_rng(0).integers(256, size=(30, 8, 8, 3), dtype=np.uint8)
    np.save(folder / "unlabelled.npy", pixels)
    root = Path(__file__).parents[2]
    env = {"PYTHONPATH": str(root)}
    done = mpirun(2, [sys.executable, WORKER, folder], env=env, timeout=300)
    assert done.code == 0, done.output
    assert "with a new head, of" in done.stdout
    return folder


def weights(run: Path) -> dict[str, Tensor]:
    state = load_file(find_checkpoints(run)[-1] / "model.pt")
    return dict(state["model"])


def result(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "result.json").read_text()))


def test_gathered_negatives_give_the_gradient_of_one_process(runs: Path) -> None:
    assert (runs / "linear").exists()  # the worker has got past its assertions


def test_pre_training_is_judged_by_its_own_task(runs: Path) -> None:
    assert result(runs / "rotation")["num_samples"] == 4 * 16
    assert result(runs / "contrastive")["num_samples"] == 16
    rows = (runs / "contrastive" / "metrics.jsonl").read_text().splitlines()
    assert all(np.isfinite(json.loads(row)["loss"]) for row in rows)
    assert not (runs / "contrastive" / "examples.png").exists()
    assert (runs / "rotation" / "examples.png").exists()


def test_linear_leaves_the_trunks_bits(runs: Path) -> None:
    before, after = weights(runs / "contrastive"), weights(runs / "linear")
    trunk = [name for name in after if not name.startswith("8.")]
    assert {name for name in after if name not in trunk} == {"8.weight", "8.bias"}
    assert any("running_var" in name for name in trunk)
    for name in trunk:
        assert torch.equal(after[name], before[name]), name


def test_full_trains_the_trunk_too(runs: Path) -> None:
    before, after = weights(runs / "rotation"), weights(runs / "full")
    assert after["8.weight"].shape[0] == 10 and before["8.weight"].shape[0] == 4
    first = before["0.weight"]
    assert not torch.equal(after["0.weight"], first)
    # no more than a few steps away from it
    assert float((after["0.weight"] - first).norm() / first.norm()) < 0.5


def test_a_run_without_classes_labels_nothing(runs: Path) -> None:
    output = runs / "refused.npz"
    images = runs / "unlabelled.npy"
    done = run([DATHVD, "pseudo-label", runs / "rotation", images, "--output", output])
    assert done.code == 2, done.output
    lines = [line for line in done.stderr.splitlines() if "dathvd: error:" in line]
    assert len(lines) == 1 and "knows no classes; fine-tune it first" in lines[0]
    assert not output.exists()


@pytest.mark.parametrize("name", ["full", "linear"])
def test_two_ranks_label_as_the_model_does(runs: Path, name: str) -> None:
    file = runs / f"labelled-by-{name}.npz"
    extra = read_extra(file)
    with torch.no_grad():
        logits = dathvd.load_model(runs / name)(extra.images.float() / 255)
    assert extra.labels.tolist() == logits.argmax(1).tolist()
    with np.load(file, allow_pickle=False) as content:
        probabilities = torch.from_numpy(content["probabilities"])
        assert content["place"].tolist() == list(range(30))
    torch.testing.assert_close(probabilities, logits.softmax(1), rtol=1e-4, atol=1e-5)
