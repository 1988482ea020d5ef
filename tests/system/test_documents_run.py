"""Every command and every Python block of README and docs runs, and so do the examples.

All of it shares one folder: the README's tour leaves the runs that the pages use. What
a test does not run says so in a comment before its block, see ``tests.documents``.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.documents import ROOT, Block, all_blocks, commands
from tests.processes import mpirun, run

WORKER = Path(__file__).with_name("documents_worker.py")
EXAMPLES = {
    "training_script.py": ["--steps", "12"],
    "finetune_torchvision.py": ["--steps", "2", "--batch-size", "8"],
    "own_codec.py": [],
}
"""The examples with arguments that make them short."""

# what runs the two commands: the first one runs this very test
ELSEWHERE = {
    "make test": ROOT / ".ci" / "run",
    "make train": ROOT / "tests" / "system" / "test_launchers_run.py",
}


def every_command() -> dict[str, Block]:
    """The commands of all bash blocks that are run, each once, by where it stands."""
    found: dict[str, Block] = {}
    for block in all_blocks("bash"):
        for command in commands(block) if block.marker != "not run" else ():
            found.setdefault(command, block)
    return found


COMMANDS = every_command()
PYTHON = [block for block in all_blocks("python") if block.marker is None]


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all runs: configurations, files from blocks, no runs yet."""
    folder = tmp_path_factory.mktemp("tour")
    for name in ("configs", "docs", "examples"):
        shutil.copytree(ROOT / name, folder / name)
    for block in all_blocks("python", "yaml"):
        if block.marker == "file":
            file = folder / block.detail
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
    return folder


def paths(folder: Path) -> dict[str, str]:
    """Lets Python find the packages of that folder, and dathvd as it is here."""
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


def test_the_two_commands_are_run_elsewhere() -> None:
    for command, place in ELSEWHERE.items():
        assert command in COMMANDS
        target = command.split()[1]
        called = rf"\bmake\b.*\b{target}\b"
        assert re.search(called, place.read_text(), flags=re.MULTILINE), command


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ELSEWHERE])
def test_every_command_works(command: str, tour: Path) -> None:
    block = COMMANDS[command]
    done = run(["bash", "-c", command], cwd=tour, env=paths(tour), timeout=240)
    if block.marker is None:
        assert done.code == 0, f"{block.place}\n{done.output}"
        return
    assert done.code == int(block.marker.removeprefix("exits ")), done.output
    assert block.detail in done.stderr, f"{block.place}\n{done.output}"


@pytest.fixture(scope="module", params=[1, 2])
def outcomes(request: pytest.FixtureRequest, tour: Path) -> dict[str, str]:
    """What went wrong in each block and example, if anything, on one or two ranks."""
    if not (tour / "runs" / "tour").exists():
        pytest.skip("the commands of the README's tour were not run before")
    work: list[dict[str, object]] = [
        {"place": b.place, "page": b.file.name, "code": b.text} for b in PYTHON
    ]
    for name, arguments in EXAMPLES.items():
        path = str(tour / "examples" / name)
        work.append({"place": name, "example": path, "arguments": arguments})
    (tour / "work.json").write_text(json.dumps(work))
    result = tour / f"done-{request.param}.json"
    env = {**paths(tour), "OMP_NUM_THREADS": "1"}
    words: list[str | Path] = [sys.executable, WORKER, "work.json", result]
    done = mpirun(request.param, words, cwd=tour, env=env, timeout=240)
    assert done.code == 0, done.output
    found: dict[str, str] = json.loads(result.read_text())
    return found


def test_every_python_block_works(outcomes: dict[str, str]) -> None:
    assert len(PYTHON) >= 2
    wrong = [f"{b.place}\n{outcomes[b.place]}" for b in PYTHON if outcomes[b.place]]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_example_works(name: str, outcomes: dict[str, str]) -> None:
    assert not outcomes[name], outcomes[name]


def test_every_example_is_run() -> None:
    assert set(EXAMPLES) == {file.name for file in (ROOT / "examples").glob("*.py")}
