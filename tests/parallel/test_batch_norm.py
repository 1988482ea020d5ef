"""Batch norm over workers: equal to one process that holds the whole batch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dathvd.config import load_config
from dathvd.errors import UserError
from tests.processes import mpirun

ROOT = Path(__file__).parents[2]


def test_workers_together_are_one_process() -> None:
    command = [sys.executable, "-m", "tests.parallel.batch_norm_worker"]
    done = mpirun(2, command, cwd=ROOT)
    assert done.code == 0, done.output
    for rank in range(2):
        assert f"rank {rank}: all laws hold" in done.stdout


def test_an_attack_in_train_mode_would_send_statistics() -> None:
    with pytest.raises(UserError, match="set attack.model_mode to eval"):
        load_config(None, ["train.batch_norm=synchronised", "attack.model_mode=train"])
