"""The default run keeps its promise, and plain training does not."""

from __future__ import annotations

import json
from pathlib import Path

from tests.processes import DATHVD, mpirun

STRONG = [
    "--epsilon", "0.15", "--step-size", str(0.15 / 8),
    "--num-steps", "50", "--restarts", "5",
]  # fmt: skip


def train_and_attack(folder: Path, *settings: str) -> tuple[float, float]:
    """Clean and robust accuracy of a two-worker run of the default configuration."""
    run, file = folder / "run", folder / "strong.json"
    command = [DATHVD, "train", "--run-dir", str(run), *settings]
    trained = mpirun(2, command, timeout=400)
    assert trained.code == 0, trained.output
    command = [DATHVD, "evaluate", str(run), *STRONG, "--json", str(file)]
    evaluated = mpirun(2, command, timeout=300)
    assert evaluated.code == 0, evaluated.output
    result = json.loads(file.read_text())
    return result["clean_accuracy"], result["robust_accuracy"]


def test_adversarial_training_withstands_what_plain_training_does_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "robust").mkdir()
    clean, robust = train_and_attack(tmp_path / "robust")
    assert clean >= 0.97 and robust >= 0.78
    (tmp_path / "plain").mkdir()
    plain = ["attack.name=none", "objective.name=plain", "train.epochs=15"]
    settings = [word for setting in plain for word in ("--set", setting)]
    clean, robust = train_and_attack(tmp_path / "plain", *settings)
    assert clean >= 0.97 and robust < 0.30
