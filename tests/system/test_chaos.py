"""Random faults, and workers that come and go: the end is as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dathvd.errors import TEMPORARY_FAILURE
from dathvd.rig.chaos import FAULTS, Campaign, available, write
from dathvd.rig.chaos.job import TOKEN
from dathvd.rig.chaos.processes import running, words_of
from dathvd.rig.chaos.rounds import Reference
from dathvd.rig.rig import rigs
from tests.processes import DATHVD, environment, run
from tests.programs import LAUNCHING

pytestmark = [pytest.mark.slow, pytest.mark.needs(*LAUNCHING)]
QUICK = {"OMP_NUM_THREADS": "1"}


def chaos(folder: Path, *options: str) -> list[dict[str, object]]:
    """Verdicts of a campaign without a problem."""
    report = folder / "report.json"
    words = [DATHVD, "rig", "chaos", "--folder", str(folder / "jobs")]
    words += ["--json", str(report)]
    # much of a round is waiting for limits to pass: several overlap
    done = run([*words, "--jobs", "3", *options], env=QUICK, timeout=900)
    assert done.code == 0, done.output
    verdicts: list[dict[str, object]] = json.loads(report.read_text())["verdicts"]
    assert not any(verdict["problems"] for verdict in verdicts)
    return verdicts


def of(names: list[str]) -> list[str]:
    return [word for name in names for word in ("--fault", name)]


def test_random_faults_leave_no_trace(tmp_path: Path) -> None:
    simple = [name for name in available()[0] if not FAULTS[name].elastic]
    options = ["--seed", "5", "--rounds", "8", "--sizes", "2"]
    verdicts = chaos(tmp_path, *options, *of(simple))
    assert len(verdicts) == 8
    assert len({verdict["fault"] for verdict in verdicts}) > 3


def test_the_history_of_an_elastic_job_is_replayed_to_the_same_bits(
    tmp_path: Path,
) -> None:
    """Ranks come and go; and where hosts can be made, one is cut off and is back."""
    names = ["host-joins", "host-lost"]
    names += [name for name in available()[0] if name == "link-black-hole"]
    rounds = str(len(names))
    options = ["--seed", "9", "--rounds", rounds, "--sizes", "1,2"]  # draws each once
    verdicts = chaos(tmp_path, *options, *of(names))
    assert {verdict["fault"] for verdict in verdicts} == set(names)
    assert all(verdict["struck"] for verdict in verdicts)


def test_a_campaign_that_is_stopped_leaves_nothing_and_goes_on(tmp_path: Path) -> None:
    """In the midst of two rounds, one on a disk of its own, one on hosts of a rig."""
    names = [name for name in ("disk-full", "link-slow") if name in available()[0]]
    report, jobs = tmp_path / "report.json", tmp_path / "jobs"
    end = Reference({}, 15.0, 5.0)  # known, so that no undisturbed job is needed
    known = Campaign(2, names or ["kill-rank"], jobs, (2,), undisturbed={2: end})
    write(report, known, [])
    command = [DATHVD, "rig", "chaos", "--folder", str(jobs), "--json", str(report)]
    command += ["--seed", "2", "--rounds", "2", "--jobs", "2", "--sizes", "2"]
    command += of(list(known.faults))
    process = subprocess.Popen(command, env=environment(QUICK), start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while len([*jobs.glob("round-*/run/metrics.jsonl")]) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == TEMPORARY_FAILURE
    finally:
        process.kill()
    left = [running(f"{TOKEN}={jobs}/round-000{number}", []) for number in (0, 1)]
    assert not [words_of(each) for found in left for each in found]
    assert not [*jobs.glob("round-*")]
    assert str(jobs) not in Path("/proc/mounts").read_text()
    assert not [rig.name for rig in rigs() if f"-{process.pid}-" in rig.name]
    assert json.loads(report.read_text())["verdicts"] == []
