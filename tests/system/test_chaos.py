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
    done = run([*words, "--jobs", "2", *options], env=QUICK, timeout=900)
    assert done.code == 0, done.output
    verdicts: list[dict[str, object]] = json.loads(report.read_text())["verdicts"]
    assert not any(verdict["problems"] for verdict in verdicts)
    return verdicts


def test_ten_random_faults_leave_no_trace(tmp_path: Path) -> None:
    simple = [name for name in available()[0] if not FAULTS[name].elastic]
    words = [word for name in simple for word in ("--fault", name)]
    verdicts = chaos(tmp_path, "--seed", "3", "--rounds", "10", "--sizes", "2", *words)
    assert len(verdicts) == 10
    assert len({verdict["fault"] for verdict in verdicts}) > 3


@pytest.mark.parametrize("fault", ["host-joins", "host-lost"])
def test_the_history_of_an_elastic_job_is_replayed_to_the_same_bits(
    tmp_path: Path, fault: str
) -> None:
    (verdict,) = chaos(
        tmp_path, "--seed", "1", "--rounds", "1", "--sizes", "2", "--fault", fault
    )
    assert verdict["struck"]
