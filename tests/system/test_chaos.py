"""Random faults, and workers that come and go: the end is as if nothing had been."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dathvd.rig.chaos import FAULTS, available
from tests.processes import DATHVD, run
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
