"""One job a run folder, whoever else comes and however the first one ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dathvd import run_folder, run_lock
from dathvd.config import load_config
from dathvd.errors import MachineFault, UserError

HOLDER = """
import sys, time
from pathlib import Path
from dathvd import run_lock
run_lock.hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def other_job(run: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    yield
    run_lock.release()


def test_a_second_job_is_refused_until_the_first_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "_WAIT", 0.3)
    with other_job(tmp_path) as first:
        message = rf"another job \(process {first.pid} on .*choose another --run-dir"
        with pytest.raises(UserError, match=message):
            run_lock.hold(tmp_path)
        first.kill()
        first.wait()
        run_lock.hold(tmp_path)


def test_the_ranks_of_a_failed_attempt_are_waited_for(tmp_path: Path) -> None:
    with other_job(tmp_path) as first:
        program = f"import os, time; time.sleep(0.5); os.kill({first.pid}, 9)"
        killer = subprocess.Popen([sys.executable, "-c", program])
        run_lock.hold(tmp_path)
        killer.wait()


def test_one_process_may_train_one_run_after_another(tmp_path: Path) -> None:
    for name in ("a", "b", "a"):
        (tmp_path / name).mkdir(exist_ok=True)
        run_lock.hold(tmp_path / name)
        run_lock.hold(tmp_path / name)  # it goes on with its own


def test_a_folder_that_is_no_longer_the_same_is_noticed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    run_lock.hold(run)
    run_lock.check_held()
    run.rename(tmp_path / "elsewhere")
    with pytest.raises(MachineFault, match="no longer there"):
        run_lock.check_held()
    run.mkdir()
    (run / ".lock").touch()
    with pytest.raises(MachineFault, match="another folder is in its place"):
        run_lock.check_held()
    assert MachineFault.exit_code == 1  # so that restarts apply


def test_a_block_fails_for_the_folder_that_has_gone_meanwhile(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    run_lock.hold(run)
    with pytest.raises(UserError, match="disk full"), run_lock.still_there():
        raise UserError("disk full")
    with pytest.raises(MachineFault, match="no longer there"), run_lock.still_there():
        run.rename(tmp_path / "elsewhere")
        raise UserError("cannot write metrics.jsonl: No such file or directory")
    (tmp_path / "elsewhere").rename(run)
    with pytest.raises(MachineFault, match="no longer there"), run_lock.still_there():
        run.rename(tmp_path / "elsewhere")


def test_who_sees_the_roots_disk(tmp_path: Path) -> None:
    name = run_lock.hold(tmp_path)
    run_lock.look_for(tmp_path, name)
    assert run_lock.shares_root_disk()
    run_lock.look_for(tmp_path / "another disk", name)
    assert not run_lock.shares_root_disk()
    run_lock.look_for(tmp_path, name)
    run_lock.forget(tmp_path, name)
    assert os.listdir(tmp_path) == [".lock"]


def test_runs_of_the_same_second_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {run_folder.make_default_run_folder(load_config()) for _ in range(5)}
    assert len(folders) == 5 and all(folder.is_dir() for folder in folders)
