"""The default run keeps its promise, and plain training does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.parallel.commands import run_commands

STRONG = [
    "--epsilon", "0.15", "--step-size", str(0.15 / 8),
    "--num-steps", "50", "--restarts", "2", "--max-samples", "200",
]  # fmt: skip
MILD = [
    "--epsilon", "0.15", "--num-steps", "20", "--restarts", "1", "--max-samples", "200",
]  # fmt: skip
"""An attack that finds fewer adversarial images than the strong one."""
PLAIN = ["attack.name=none", "objective.name=plain", "train.epochs=10"]


@pytest.mark.timeout(900)  # where several suites share the machine
def test_adversarial_training_withstands_what_plain_training_does_not(
    tmp_path: Path,
) -> None:
    """A run of the default configuration and a plain one, of two workers each."""
    robust, plain = str(tmp_path / "robust"), str(tmp_path / "plain")
    settings = [word for setting in PLAIN for word in ("--set", setting)]
    files = [tmp_path / "robust.json", tmp_path / "plain.json"]
    commands = [
        ["train", "--run-dir", robust],
        ["evaluate", robust, *STRONG, "--json", str(files[0])],
        ["train", "--run-dir", plain, *settings],
        ["evaluate", plain, *MILD, "--json", str(files[1])],
    ]
    for done in run_commands(2, *commands, timeout=800):
        assert done.code == 0, done.output
    result, plainly = (json.loads(file.read_text()) for file in files)
    assert result["clean_accuracy"] >= 0.97 and result["robust_accuracy"] >= 0.78
    # even against the milder attack
    assert plainly["clean_accuracy"] >= 0.97 and plainly["robust_accuracy"] < 0.30
