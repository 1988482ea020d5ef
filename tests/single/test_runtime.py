"""What a worker sets and waits for before collectives exist."""

from __future__ import annotations

import os
import time

import psutil
import pytest

from dathvd import ranks
from dathvd.runtime import start

YIELD = "OMPI_MCA_mpi_yield_when_idle"


@pytest.mark.slow
def test_ranks_that_wait_leave_their_core_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(YIELD, raising=False)
    assert start("cpu").size == 1
    assert os.environ[YIELD] == "1"
    monkeypatch.setenv(YIELD, "0")
    start("cpu")
    assert os.environ[YIELD] == "0"


@pytest.mark.parametrize(
    ("rank", "age", "waits"),
    [("0", 5.0, []), ("1", 0.2, [3.0]), ("1", 2.0, [6.0]), ("1", 3600.0, [10.0])],
)
def test_other_ranks_let_rank_0_speak_the_longer_the_slower_they_were(
    rank: str, age: float, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setenv("HOROVOD_RANK", rank)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 1e9 - age)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    monkeypatch.setattr(time, "sleep", waited.append)
    ranks.wait_for_root_to_report()
    assert waited == pytest.approx(waits)
