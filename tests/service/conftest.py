"""A queue and an index of each test's own, and a quick command for its jobs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from dathvd.service import submission
from dathvd.service.engines import local, supervisor
from tests.service import stub

if importlib.util.find_spec("sqlalchemy") is None:  # the extra `service`
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def own_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the user's is touched."""
    monkeypatch.setenv("DATHVD_STATE", str(tmp_path / "queue"))
    monkeypatch.setenv("DATHVD_DATABASE", f"sqlite:///{tmp_path / 'runs.sqlite'}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("DATHVD_SLOTS", "2")
    monkeypatch.delenv("DATHVD_SERVER", raising=False)
    yield


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are stubs: ``("train", SECONDS)``."""
    monkeypatch.setattr(local, "SUPERVISOR", local.SUPERVISOR)
    monkeypatch.setattr(
        supervisor, "launch_command", supervisor.__dict__["launch_command"]
    )
    monkeypatch.setattr(submission, "check", lambda request: None)
    stub.use()
