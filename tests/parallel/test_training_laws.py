"""Laws of the training loop on two ranks; see ``training_worker.py``."""

from __future__ import annotations

import sys
from pathlib import Path

import horovod.torch as hvd
import pytest

from tests.parallel.training_worker import LAWS, left_by_one_worker
from tests.processes import Finished, mpirun

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two ranks that have checked all laws."""
    folder = tmp_path_factory.mktemp("laws")
    hvd.init()
    left_by_one_worker(folder / "one")
    worker = "tests.parallel.training_worker"
    command = [sys.executable, "-m", worker, str(folder)]
    return mpirun(2, command, cwd=ROOT, timeout=240)


@pytest.mark.parametrize("law", LAWS)
def test_law(launched: Finished, law: str) -> None:
    assert f"held: {law} " in launched.stdout, launched.output
    assert launched.code == 0, launched.output
