"""dathvd doctor: findings, their remedies, and what makes training fail."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from dathvd.doctor import local
from dathvd.doctor.finding import Finding, report, would_fail
from dathvd.doctor.ranks import RankFacts, code_hash, compare
from tests.processes import DATHVD, mpirun, run

FACTS = RankFacts(
    rank=0,
    host="a",
    versions=(("torch", "2.13.0"), ("horovod", "0.28.1")),
    code="1234",
    device="cpu",
    memory_gib=4.0,
    threads=2,
    clock=100.0,
    folder="/",
)


def second(**changes: Any) -> list[RankFacts]:
    return [FACTS, dataclasses.replace(FACTS, rank=1, host="b", **changes)]


def states(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}


def test_equal_ranks_fit_together() -> None:
    findings = compare(second())
    assert not would_fail(findings)
    assert [f.name for f in findings][-2:] == ["Rank 0 on a", "Rank 1 on b"]


def test_another_version_is_named_and_fails() -> None:
    findings = compare(second(versions=(("torch", "2.12.0"), ("horovod", "0.28.1"))))
    assert would_fail(findings)
    assert findings[0].value == "torch 2.12.0 on rank 1 (b), 2.13.0 on rank 0"
    assert findings[0].remedy


def test_other_code_fails_and_a_wrong_clock_warns() -> None:
    found = states(compare(second(code="9", clock=110.0)))
    assert found["Code"] == "FAIL" and found["Clocks"] == "warn"


def test_the_code_hash_follows_the_sources(tmp_path: Path, monkeypatch: Any) -> None:
    import dathvd

    first = code_hash()
    assert first == code_hash()
    (tmp_path / "__init__.py").write_text("x = 1\n")
    monkeypatch.setattr(dathvd, "__file__", str(tmp_path / "__init__.py"))
    other = code_hash()
    (tmp_path / "__init__.py").write_text("x = 2\n")
    assert len({first, other, code_hash()}) == 3


def test_the_table_puts_the_remedy_below_its_problem() -> None:
    lines = report(
        [Finding("MPI", "4.1"), Finding("Horovod", "gone", "FAIL", "run: make setup")]
    ).splitlines()
    assert lines == [
        "ok    MPI      4.1",
        "FAIL  Horovod  gone",
        "               → run: make setup",
    ]


def test_a_name_that_does_not_resolve_fails(monkeypatch: Any) -> None:
    def fail(name: str) -> str:
        raise OSError

    monkeypatch.setattr(socket, "gethostbyname", fail)
    assert local.host_name().state == "FAIL"


def test_a_missing_mpirun_warns(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert local.mpi().state == "warn" and "openmpi-bin" in local.mpi().remedy
    assert local.ssh_client().state == "warn"


def test_an_mpirun_of_another_mpi_fails(monkeypatch: Any, tmp_path: Path) -> None:
    other = tmp_path / "mpirun"
    other.write_text("#!/bin/sh\necho 'mpirun (Open MPI) 9.9.9'\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    finding = local.mpi4py_library()
    assert finding.state == "FAIL" and "9.9.9" in finding.value


def test_more_threads_than_cores_warn(monkeypatch: Any) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1000000")
    assert local.threads().state == "warn"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert local.threads().state == "ok"


def test_little_memory_warns(monkeypatch: Any) -> None:
    import psutil

    state = psutil.virtual_memory()._replace(available=1 << 20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: state)
    assert local.memory().state == "warn"


def test_a_folder_that_cannot_be_written_fails(monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert local.run_folder().state == "FAIL"


def test_another_package_version_warns(monkeypatch: Any) -> None:
    from importlib import metadata

    monkeypatch.setattr(metadata, "requires", lambda _: ["click==0.1"])
    assert local.pins().state == "warn" and "wanted ==0.1" in local.pins().value
    asked = ["click<9,>=8.1", "no-such-package>=1; extra == 'test'"]
    monkeypatch.setattr(metadata, "requires", lambda _: asked)
    assert local.pins().state == "ok"
    monkeypatch.setattr(metadata, "requires", lambda _: ["no-such-package<2,>=1"])
    found = local.pins()
    assert found.state == "FAIL" and found.value == "no-such-package is not installed"


@pytest.mark.slow
def test_the_doctor_finds_this_environment_fit(tmp_path: Path) -> None:
    done = run([DATHVD, "doctor"], cwd=tmp_path)
    assert done.code == 0, done.output
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok    Horovod ") for line in lines), done.output
    assert any(line.startswith("ok    Start ") for line in lines), done.output


@pytest.mark.slow
def test_a_broken_horovod_is_exit_code_1(tmp_path: Path) -> None:
    broken = tmp_path / "horovod"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libcuda.so.1')\n")
    done = run([DATHVD, "doctor"], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert done.code == 1, done.output
    assert "FAIL  Horovod   cannot be imported: libcuda.so.1" in done.stdout
    assert "Traceback" not in done.output


@pytest.mark.slow
def test_ranks_are_compared_and_links_measured() -> None:
    done = mpirun(2, [DATHVD, "doctor"])
    assert done.code == 0, done.output
    for name in ("Versions", "Code", "Rank 1 on", "Allreduce", "Alltoall"):
        assert sum(f" {name}" in line for line in done.stdout.splitlines()) == 1


@pytest.mark.slow
def test_an_unreachable_host_fails(tmp_path: Path) -> None:
    done = run([DATHVD, "doctor", "-H", "no-such-host.invalid:1"], cwd=tmp_path)
    assert done.code == 1, done.output
    assert "FAIL  Host no-such-host.invalid" in done.stdout
    assert "must work without a password" in done.stdout


@pytest.mark.parametrize("words", [["--mpi", "--gloo"], ["-np", "0"], ["-H", "a:x"]])
def test_wrong_options_are_one_line(words: list[str]) -> None:
    done = run([DATHVD, "doctor", *words])
    assert done.code == 2 and done.stderr.startswith("dathvd: error: ")
    assert done.stderr.count("\n") == 1
