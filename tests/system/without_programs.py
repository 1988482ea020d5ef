"""Runs collection and fixtures of the tests with programs hidden, one set at a time.

argv: folders or files of tests. Needs root and a mount namespace of its own: an empty
file that nobody may run lies over each hidden program. Prints a line of JSON a set.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter

import pytest

from tests.programs import LAUNCHING, RIG, SYSTEM

# Without munged no Slurm comes up: its fixtures train, and one hidden set needs them.
SETS = [
    SYSTEM,
    *((name, "munged") for name in SYSTEM if name not in ("munged", "slurmd")),
    ("ssh", "munged"),
    ("mpirun", "munged"),
    ("g++", "munged"),
]
SLOW = "tests/system/test_rig_speedup.py"


class Outcomes:
    """A pytest plugin that counts outcomes and keeps the texts of errors."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self.reasons: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "setup":
            self._add(report.outcome, report.nodeid, report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._add("failed", report.nodeid, report.longrepr)

    def _add(self, outcome: str, name: str, why: object) -> None:
        self.counts[outcome] += 1
        if outcome == "failed":
            self.errors.append(f"{name}: {why}")
        if outcome == "skipped" and isinstance(why, tuple):
            self.reasons.add(str(why[2]))


def hide(program: str, cover: str) -> list[str]:
    """Lay ``cover`` over every file of that name that would be run; return these."""
    path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"
    hidden = []
    while found := shutil.which(program, path=path):
        hidden.append(os.path.realpath(found))
        subprocess.run(["mount", "--bind", cover, hidden[-1]], check=True)
    return hidden


def run_pytest(*arguments: str) -> Outcomes:
    """Run pytest in this process, which keeps what it imports; its words are logs."""
    outcomes = Outcomes()
    options = ["-q", "-p", "no:cacheprovider", *arguments, *sys.argv[1:]]
    with contextlib.redirect_stdout(sys.stderr):
        pytest.main(options, plugins=[outcomes])
    return outcomes


def run_without(names: tuple[str, ...], cover: str) -> dict[str, object]:
    """What collection and fixtures come to where the programs ``names`` are hidden."""
    hidden = [file for name in names for file in hide(name, cover)]
    # its fixture measures for a minute, and asks for no other programs than these
    slow = [] if {*RIG, *LAUNCHING} & {*names} else ["--deselect", SLOW]
    try:
        outcomes = run_pytest("--setup-only", *slow)
    finally:
        for file in hidden:
            subprocess.run(["umount", file], check=True)
    return {
        "hidden": names,
        "counts": outcomes.counts,
        "errors": outcomes.errors,
        "reasons": sorted(outcomes.reasons),
    }


if __name__ == "__main__":
    run_pytest("--collect-only")  # modules ask the kernel when they are imported
    with tempfile.NamedTemporaryFile() as cover:
        for names in SETS:
            print(json.dumps(run_without(names, cover.name)), flush=True)
