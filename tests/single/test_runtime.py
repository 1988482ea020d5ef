"""What a worker sets before MPI starts."""

from __future__ import annotations

import os

import pytest

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
