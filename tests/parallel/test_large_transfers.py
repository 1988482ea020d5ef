"""More than 2 GiB in one transfer, for real: only where it is asked for.

``DATHVD_TEST_LARGE=1 python -m pytest tests/parallel/test_large_transfers.py`` takes
half a minute and 10 GiB of memory. That no collective exceeds a part is a law that
``training_worker.py`` checks each time, with parts of seven bytes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.processes import mpirun

pytestmark = pytest.mark.skipif(
    os.environ.get("DATHVD_TEST_LARGE") != "1",
    reason="takes 10 GiB of memory; DATHVD_TEST_LARGE=1 asks for it",
)
KINDS = ("a tensor at the start", "a tensor of a checkpoint", "bytes")


@pytest.mark.slow
def test_more_than_31_bits_can_count_arrives_whole() -> None:
    command = [sys.executable, "-m", "tests.parallel.large_worker"]
    done = mpirun(2, command, cwd=Path(__file__).parents[2])
    assert done.code == 0, done.output
    for kind in KINDS:
        assert f"{kind}: 2 of 2 intact" in done.stdout, done.output
