"""The list of packages, and what is said of known vulnerabilities: with stand-ins for
the two tools, which are not part of the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
AUDIT = ROOT / "launchers" / "audit.py"
SCRIPT = ROOT / "launchers" / "inspect.sh"
FLAW = {"id": "PYSEC-1", "fix_versions": ["2.0"], "aliases": []}


def audit(
    folder: Path, answers: dict[str, Any], packages: str
) -> subprocess.CompletedProcess[str]:
    """With a pip-audit that knows the packages of ``answers``, or fails without."""
    tool = folder / "pip-audit"
    tool.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        f"answers = json.loads({json.dumps(json.dumps(answers))})\n"
        "lines = open(sys.argv[-1]).read().split()\n"
        "if not answers: sys.exit('requests.ConnectionError: no route to the host')\n"
        "names = [line.split('==')[0] for line in lines]\n"
        "skip = {'skip_reason': 'Dependency not found on PyPI'}\n"
        "print(json.dumps({'dependencies': [{'name': name, 'version': '1.0',\n"
        "    **({'vulns': answers[name]} if name in answers else skip)}\n"
        "    for name in names], 'fixes': []}))\n"
    )
    tool.chmod(0o755)
    return subprocess.run(
        [sys.executable, AUDIT, tool],
        input=packages,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("answers", "code", "last"),
    [
        ({"a": [], "b": []}, 0, "audit: 0 of 2 packages have known flaws"),
        (
            {"a": []},
            0,
            "audit: 0 of 1 packages have known flaws; not known there: b",
        ),
        ({"a": [], "b": [FLAW]}, 1, "audit: 1 of 2 packages have known flaws"),
        (
            {},
            2,
            "audit: no vulnerability database could be asked: "
            "requests.ConnectionError: no route to the host",
        ),
        (
            {"c": []},
            2,
            "audit: no vulnerability database could be asked: "
            "it knows none of the packages",
        ),
    ],
)
def test_an_audit_says_what_was_not_asked(
    tmp_path: Path, answers: dict[str, Any], code: int, last: str
) -> None:
    done = audit(tmp_path, answers, "a==1.0\nb==1.0\n")
    assert done.returncode == code, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == last
    assert lines[:-1] == (["b 1.0: PYSEC-1, fixed by 2.0"] if code == 1 else [])


def inspected(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The script in an environment whose every program is a stand-in that tells its
    arguments, with tools that are there already."""
    venv = folder / "venv" / "bin"
    venv.mkdir(parents=True)
    python = venv / "python"
    python.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo Python 3 && exit\n'
        "printf 'torch==1.0+cpu\\ndathvd==0.1\\nb==1.0\\n'\n"
    )
    key = subprocess.run(
        ["bash", "-c", f"{{ cat {ROOT}/launchers/locks/tools.txt; echo Python 3; }}"
         " | sha256sum | cut -c 1-16"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    tools = folder / "cache" / f"tools-{key}"
    (tools / "bin").mkdir(parents=True)
    (tools / "complete").touch()
    (tools / "bin" / "cyclonedx-py").write_text('#!/bin/sh\necho "$@"\n')
    (tools / "bin" / "python").write_text('#!/bin/sh\necho "$@"; cat\n')
    for program in (python, *(tools / "bin").iterdir()):
        program.chmod(0o755)
    env = {
        "PATH": os.environ["PATH"],
        "VENV": str(venv.parent),
        "DATHVD_CACHE": str(folder / "cache"),
    }
    return subprocess.run(
        [SCRIPT, *words], capture_output=True, text=True, env=env, check=False
    )


def test_the_list_is_of_the_environment_and_reproducible(tmp_path: Path) -> None:
    done = inspected(tmp_path, "sbom", "out.json")
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()[0].split()
    assert words[0] == "environment" and words[-1].endswith("venv/bin/python")
    assert "--output-reproducible" in words and "out.json" in words


def test_a_build_of_torch_is_audited_as_its_version(tmp_path: Path) -> None:
    done = inspected(tmp_path, "audit")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["torch==1.0", "b==1.0"]


def test_without_an_environment_it_says_so(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "VENV": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [SCRIPT, "sbom"], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 2 and "make setup makes one" in done.stderr
