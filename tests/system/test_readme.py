"""The README: every command in it runs, every picture and link in it is there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.processes import run

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()

# what runs the two commands: the first one runs this very test
ELSEWHERE = {
    "make test": ROOT / ".ci" / "run",
    "make train": ROOT / "tests" / "system" / "test_launchers_run.py",
}


def commands() -> list[str]:
    """Every line of the README's bash blocks, continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tour is taken: the configs are there, runs are new."""
    folder = tmp_path_factory.mktemp("tour")
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder


def test_the_two_commands_are_run_elsewhere() -> None:
    for command, place in ELSEWHERE.items():
        assert command in commands()
        target = command.split()[1]
        called = rf"\bmake\b.*\b{target}\b"
        assert re.search(called, place.read_text(), flags=re.MULTILINE), command


@pytest.mark.parametrize("command", [c for c in commands() if c not in ELSEWHERE])
def test_every_command_works(command: str, tour: Path) -> None:
    done = run(["bash", "-c", command], cwd=tour, timeout=240)
    assert done.code == 0, done.output


def test_pictures_and_links_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if not target.startswith(("http://", "https://")):
            assert (ROOT / target).exists(), target


def test_figures_name_their_data() -> None:
    """No accuracy without saying of what; lossy CIFAR-10 is called by its name."""
    for line in TEXT.splitlines():
        if "CIFAR-10" in line and re.search(r"\d %", line):
            assert "CIFAR-10 (JPEG)" in line, line
