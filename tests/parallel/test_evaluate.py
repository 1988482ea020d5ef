"""``dathvd evaluate`` over real MPI: one result for every number of workers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from dathvd import checkpoint
from dathvd.config import load_config
from dathvd.data import load_dataset
from dathvd.evaluation import Grid, Request, evaluate_checkpoint
from dathvd.models import build_model
from dathvd.runtime import Runtime
from tests.processes import DATHVD, mpirun

ALONE = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)
# three parts of up to three digits, and AutoAttack's own parts of what is left
GRID = Grid(("pgd", "autoattack"), (0.0, 0.1), (2, 5))
OPTIONS = [
    "--attack", "pgd,autoattack", "--epsilon", "0,0.1", "--num-steps", "2,5",
    "--max-samples", "8", "--batch-size", "3",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a network that reads four digits, trained for a moment.

    Four classes, as the targeted attacks run once for each of the others.
    """
    folder = tmp_path_factory.mktemp("network")
    digits = load_digits(n_class=4)
    images = (digits.images * (255 / 16)).astype(np.uint8)
    np.savez(folder / "digits.npz", x_train=images, y_train=digits.target)
    root = f"data.root={folder / 'digits.npz'}"
    config = load_config(None, ["data.name=arrays", root, "model.width=2"])
    data = load_dataset(config.data)
    torch.manual_seed(0)
    model = build_model(config.model, image_shape=data.image_shape, num_classes=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    pixels = data.train.batch(torch.arange(len(data.train))).float() / 255
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(pixels), data.train.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = {
        "format": checkpoint.FORMAT,
        "config": config.model_dump_json(),
        "image_shape": list(data.image_shape),
        "num_classes": 4,
        "model": model.state_dict(),
    }
    checkpoint.save_file(folder / "model.pt", state)
    return folder


def test_three_workers_go_on_where_one_was_interrupted_and_agree_with_it(
    folder: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    request = Request(GRID, batch_size=3, max_samples=8, output=tmp_path / "alone")
    evaluate_checkpoint(str(folder), request, ALONE)
    parts = sorted((tmp_path / "alone" / "parts").iterdir())
    whole = {"00000000-00000003", "00000003-00000006", "00000006-00000008"}
    assert whole < {part.stem for part in parts}  # what is left has its own ranges
    begun = tmp_path / "begun"
    (begun / "parts").mkdir(parents=True)
    for file in (tmp_path / "alone" / "evaluation.json", parts[1]):
        place = file.relative_to(tmp_path / "alone")
        (begun / place).write_bytes(file.read_bytes())
    kept = begun / "parts" / parts[1].name
    before = kept.stat().st_mtime_ns
    result_file = tmp_path / "result.json"
    command = [DATHVD, "evaluate", str(folder), *OPTIONS, "--output", str(begun)]
    three = mpirun(
        3,
        [*command, "--json", str(result_file)],
        env={"OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert three.code == 0, three.output
    assert kept.stat().st_mtime_ns == before
    for name in ("samples.csv", "cells.csv"):
        assert (begun / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    result = json.loads(result_file.read_text())
    assert result["num_workers"] == 3 and result["num_samples"] == 8
    shares = [row["robust_accuracy"] for row in result["cells"]]
    none, _, five, autoattack = shares
    assert 0 < autoattack <= five <= none == result["clean_accuracy"]
