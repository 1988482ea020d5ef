"""The index on SQLite and on a real PostgreSQL: quick, and never the truth."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dathvd.errors import UserError
from dathvd.service import record
from dathvd.service.catalogue import Catalogue, Query, default_url
from dathvd.service.observe import observe_all
from tests.service.postgres import BINARIES, Postgres


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A PostgreSQL of this test's own, reached through a socket in its folder."""
    if not BINARIES:
        pytest.skip("PostgreSQL's server is not installed")
    server = Postgres()
    yield server.url
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def catalogue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalogue]:
    """An empty index."""
    url = f"sqlite:///{tmp_path / 'index' / 'runs.sqlite'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres")
    found = Catalogue(url)
    rows, _ = found.select(Query(limit=100_000), refresh=False)
    found.forget([row["run"] for row in rows])
    yield found
    found.close()


def make_run(
    run: Path, code: int | None = 1, group: str | None = None, age: float = 0
) -> Path:
    """A run folder of a job that ended with ``code``, or was never handed over."""
    job = record.new_job(
        engine="local",
        num_proc=1,
        arguments=("train",),
        folder="/",
        group=group,
        submitted_at=time.time() - age,
    )
    record.write_job(run, job)
    if code is not None:
        at = job.submitted_at + 5
        end = record.Exit(code=code, at=at, started_at=at - 1, message="why")
        record.write_exit(run, 1, end)
        if code == 0:
            (run / "result.json").write_text('{"robust_accuracy": 0.25}')
    return run


def test_listing_filters_orders_and_counts(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    make_run(tmp_path / "old", 0, "a", age=300)
    make_run(tmp_path / "middle", 1, "a", age=200)
    make_run(tmp_path / "new", 0, None, age=100)
    assert catalogue.rescan(tmp_path) == 3

    def names(**query: object) -> list[str]:
        rows, _ = catalogue.select(Query(**query))  # type: ignore[arg-type]
        return [Path(row["run"]).name for row in rows]

    assert names() == ["new", "middle", "old"]
    assert names(oldest_first=True) == ["old", "middle", "new"]
    assert names(states=("finished",)) == ["new", "old"]
    assert names(group="a") == ["middle", "old"]
    assert names(text="idd") == ["middle"]
    assert names(text="%") == [] and names(text="n_w") == []
    assert names(limit=1, offset=1) == ["middle"]
    assert catalogue.select(Query(limit=1))[1] == 3
    assert catalogue.count_states() == {"finished": 2, "failed": 1}
    rows, _ = catalogue.select(Query(text="new"))
    assert rows[0]["robust_accuracy"] == 0.25
    uuid = rows[0]["job"]["uuid"]
    assert catalogue.find(uuid[:9]) == catalogue.find("new") == [str(tmp_path / "new")]
    assert catalogue.folder_of(uuid) == tmp_path / "new"
    assert catalogue.find("ew") == [] and catalogue.find("%") == []


def test_what_is_shown_is_true_now(catalogue: Catalogue, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", None)
    catalogue.rescan(tmp_path)
    assert catalogue.select(Query())[0][0]["status"]["state"] == "queued"
    end = record.Exit(code=1, at=1.0, started_at=0.0, message="no")
    record.write_exit(run, 1, end)
    assert catalogue.select(Query())[0][0]["status"]["state"] == "failed"
    # somebody else resumes it: a job that has ended is seen again if its record changed
    job = record.read_job(run)
    assert job is not None
    record.write_job(run, job.model_copy(update={"attempt": 2}))
    assert catalogue.select(Query())[0][0]["status"]["state"] == "queued"
    shutil.rmtree(run)
    assert catalogue.select(Query()) == ([], 0)


def test_the_index_can_be_thrown_away(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a" / "b", 0)
    url = f"sqlite:///{tmp_path / 'x.sqlite'}"
    first = Catalogue(url)
    assert first.rescan(tmp_path / "runs") == 1
    first.close()
    (tmp_path / "x.sqlite").unlink()
    second = Catalogue(url)
    assert second.select(Query()) == ([], 0)
    assert second.rescan(tmp_path / "runs") == 1
    assert second.select(Query())[1] == 1
    second.close()


def test_ten_thousand_runs_are_listed_in_no_time(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (seen,) = observe_all([make_run(tmp_path / "run", 0)])
    shutil.rmtree(tmp_path / "run")
    jobs = [
        seen.job.model_copy(update={"uuid": f"{n:032x}", "submitted_at": float(n)})
        for n in range(10_000)
    ]
    catalogue.put(
        replace(seen, run=f"/nowhere/run-{n}", job=job) for n, job in enumerate(jobs)
    )
    # as the index is asked for a page: the folders would have to be there
    monkeypatch.setattr("dathvd.service.catalogue._is_outdated", lambda row: False)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        rows, total = catalogue.select(Query(text="run-99", limit=50), refresh=False)
        counts = catalogue.count_states()
        times.append(time.perf_counter() - began)
        assert (total, len(rows), counts) == (111, 50, {"finished": 10_000})
    assert sorted(times)[2] < 0.2


def test_a_database_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    for url in ("nonsense", "mongo://x", "sqlite:////proc/no/runs.sqlite"):
        with pytest.raises(UserError):
            Catalogue(url)
    with pytest.raises(UserError) as caught:
        Catalogue("postgresql+psycopg://me:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"not a database at all, but long enough to look like one" * 9)
    with pytest.raises(UserError, match="--rescan ROOT makes it anew"):
        Catalogue(f"sqlite:///{broken}")


def test_the_default_is_this_users_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATHVD_DATABASE")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_url() == "sqlite:////data/dathvd/runs.sqlite"


def test_what_others_left_below_the_root_is_discovered(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    known, new = make_run(tmp_path / "known", 0), make_run(tmp_path / "deep" / "new", 0)
    catalogue.put(observe_all([known]))
    assert catalogue.discover(tmp_path) == [new]
    assert catalogue.discover(tmp_path) == []
    assert catalogue.select(Query())[1] == 2


def test_damaged_records_hide_no_other_run(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    make_run(tmp_path / "good", 0)
    bad = make_run(tmp_path / "bad", 0)
    (bad / record.JOB_FILE).write_text(json.dumps({"uuid": "../../etc"}))
    catalogue.rescan(tmp_path)
    rows, _ = catalogue.select(Query())
    assert [Path(row["run"]).name for row in rows] == ["good"]
