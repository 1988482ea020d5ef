"""The set-up script: what it decides, and what it says where it cannot go on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launchers" / "setup.sh"
VENV = Path(sys.executable).parents[1]


def call(function: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Call one function of the script, whose last part (the work) is left out."""
    text = SCRIPT.read_text()
    functions = text[: text.index("\npython=$(interpreter)")]
    functions = functions.replace("${BASH_SOURCE[0]}", str(SCRIPT))
    return subprocess.run(
        ["bash", "-c", f"{functions}\npython={sys.executable}\n{function}"],
        env={"PATH": os.environ["PATH"], "HOME": "/root", "VENV": str(VENV), **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_pins_come_from_the_metadata() -> None:
    done = call("pinned torch; pinned numpy")
    text = (ROOT / "setup.cfg").read_text()
    pins = re.findall(r"^    ((?:torch|numpy)==\S+)", text, re.MULTILINE)
    assert done.stdout.split() == pins and len(pins) == 2


def test_the_key_is_stable_and_knows_what_horovod_is_built_against(
    tmp_path: Path,
) -> None:
    first, second = call("horovod_key"), call("horovod_key")
    assert re.fullmatch(r"[0-9a-f]{16}\n", first.stdout), first.stderr
    assert first.stdout == second.stdout
    compiler = tmp_path / "g++"  # another compiler, another wheel
    compiler.write_text("#!/bin/sh\necho 99.1.0\n")
    compiler.chmod(0o755)
    other = call("horovod_key", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert other.returncode == 0 and other.stdout != first.stdout


def test_cuda_without_its_compiler_is_one_line() -> None:
    done = call("horovod_key", DATHVD_CUDA="1", PATH="/usr/bin:/bin")
    if "nvcc" not in done.stderr:
        pytest.skip("nvcc is installed here")
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_an_old_python_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # its version check fails
    old.chmod(0o755)
    done = call("interpreter", PYTHON=str(old))
    assert done.returncode == 2
    assert "Python 3.11 or newer is needed" in done.stderr


def test_a_missing_package_is_named_to_who_cannot_install_it(tmp_path: Path) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name in ("id", "sudo"):
        fake = bin_folder / name
        fake.write_text("#!/bin/sh\n[ $(basename $0) = id ] && echo 1000 || exit 1\n")
        fake.chmod(0o755)
    for name in ("sort", "tr", "printf", "grep", "basename", "dirname", "sh"):
        (bin_folder / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        ["/usr/bin/bash", str(SCRIPT)],
        env={"PATH": str(bin_folder), "HOME": str(tmp_path), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("setup: missing system packages: ")
    assert "openmpi-bin" in done.stderr and "cmake" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = subprocess.run(
        [str(SCRIPT)],
        env={**os.environ, "DATHVD_CACHE": str(blocked), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    if "missing system packages" in done.stderr:
        pytest.skip("the packages to build with are not installed here")
    assert done.returncode == 2
    assert "another with DATHVD_CACHE=" in done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")
def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    done = subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory"],
        capture_output=True,
        text=True,
        check=True,
    )
    for target in phony[1].split():
        assert re.search(rf"^  make {target} ", done.stdout, re.MULTILINE), target


def test_the_readmes_targets_exist() -> None:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("there is no README here")
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)\b", readme.read_text())):
        assert f"\n{target}:" in makefile, target
