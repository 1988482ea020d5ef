"""A machine without some program: tests that drive it are skipped, none is an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import environment, run
from tests.programs import OPTIONAL, missing
from tests.system.without_programs import SETS

ROOT = Path(__file__).parents[2]
PLACES = [
    f"tests/system/test_{name}.py"
    for name in ("rig", "rig_network", "rig_speedup", "launch_hosts", "launch_ranks")
]
PLACES += ["tests/system/test_launchers_run.py", "tests/system/test_slurm.py"]
PLACES += ["tests/single/test_launchers.py"]
SCRIPT = ROOT / "launchers" / "setup.sh"


def _may_mount() -> bool:
    if os.geteuid() != 0 or missing("unshare", "mount"):
        return False
    probe = ["unshare", "--mount", "mount", "--bind", "/dev/null", "/etc/hostname"]
    return subprocess.run(probe, capture_output=True).returncode == 0


@pytest.mark.root
@pytest.mark.skipif(not _may_mount(), reason="hiding a program needs root's mounts")
def test_no_fixture_breaks_where_a_program_is_missing() -> None:
    script = ["-m", "tests.system.without_programs"]
    command = ["unshare", "--mount", sys.executable, *script, *PLACES]
    done = run(command, cwd=ROOT, timeout=240)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [tuple(line["hidden"]) for line in lines] == SETS, done.output
    for line in lines:
        assert line["errors"] == [], line["hidden"]
        assert line["counts"]["passed"] > 20, line
        reasons = " ".join(line["reasons"])
        needed = [name for name in line["hidden"] if name not in ("g++", "slurmd")]
        assert all(name in reasons for name in needed), line


def test_what_make_test_installs_is_what_tests_may_lack(tmp_path: Path) -> None:
    """The tools that the set-up script looks for are those of the table, no others."""
    for name in ("id", "sudo"):
        fake = tmp_path / name
        fake.write_text("#!/bin/sh\n[ $(basename $0) = id ] && echo 1000 || exit 1\n")
        fake.chmod(0o755)
    text = SCRIPT.read_text()
    table = text[text.index("missing_test_tools()") :].partition("}")[0]
    looked_for = {word.split("=")[0] for word in table.split() if "=" in word}
    assert looked_for == {*OPTIONAL, "ssh", "sbatch"}
    env = environment({"DATHVD_STAGE": "test-tools"})
    path = f"{tmp_path}{os.pathsep}{env['PATH']}"
    done = run([SCRIPT], env={**env, "PATH": path})
    assert done.code == 0, done.output
    if absent := missing(*looked_for):
        assert "not here, so that the tests that drive them are skipped" in done.stdout
        assert absent
