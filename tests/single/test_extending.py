"""One new file and one new line add a component: done for every kind, in a copy."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import dathvd
from tests.own_package import SOURCE, as_arguments
from tests.processes import Finished, run

ROOT = Path(dathvd.__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """A component to add: its table, its source, its new file, and what is in it."""

    table: str
    name: str
    source: str
    file: str
    attribute: str
    registry: str = "dathvd/components.py"

    @property
    def line(self) -> str:
        """The line of the registry."""
        module = self.file.removesuffix(".py").replace("/", ".")
        return f'"{self.name}": "{module}:{self.attribute}",'


ROWS = [
    Row("CODECS", "shortened", "codecs", "dathvd/compression/cut.py", "Shortened"),
    Row("ATTACKS", "corner", "attacks", "dathvd/attacks/corner.py", "Corner"),
    Row(
        "EVALUATION_ATTACKS",
        "upright",
        "judged",
        "dathvd/evaluation/upright.py",
        "UPRIGHT",
    ),
    Row("DATASETS", "stripes", "sets", "dathvd/data/stripes.py", "stripes"),
    Row("OBJECTIVES", "focal", "losses", "dathvd/objectives/focal.py", "Focal"),
    Row("NETWORKS", "slim", "nets", "dathvd/models/slim.py", "make_network"),
    Row("OPTIMIZERS", "signs", "updates", "dathvd/optim/signs.py", "SignDescent"),
    Row("LAUNCHERS", "srun", "launchers", "dathvd/launch/launchers/srun.py", "SRUN"),
    Row(
        "ENGINES",
        "shelf",
        "engines",
        "dathvd/service/engines/shelf.py",
        "Shelf",
        "dathvd/service/engines/__init__.py",
    ),
]
LAWS = [
    "attacks",
    "compression_laws",
    "data_sets",
    "evaluation_attacks",
    "launch",
    "layers",
    "models",
    "models_head",
    "objectives",
    "optim_steps",
    "registry",
]


def contents(tree: Path) -> dict[str, str]:
    """The hash of every source file of a tree."""
    return {
        str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tree.rglob("*.py")
    }


def add(row: Row, tree: Path) -> None:
    """Write the new file, and the line at the end of its table."""
    shutil.copy(SOURCE / f"{row.source}.py", tree / row.file)
    lines = (tree / row.registry).read_text().splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if re.match(rf"{row.table}\b", line))
    end = next(i for i in range(start, len(lines)) if lines[i].strip()[:1] == "}")
    lines.insert(end, f"        {row.line}\n")
    (tree / row.registry).write_text("".join(lines))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources and tests, with a component more of every kind."""
    tree = tmp_path_factory.mktemp("tree")
    unused = shutil.ignore_patterns("__pycache__", ".*")
    for folder in ("dathvd", "tests"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=unused)
    shutil.copy(ROOT / "setup.cfg", tree)
    for row in ROWS:
        before, registry = contents(tree), (tree / row.registry).read_text()
        add(row, tree)
        after = contents(tree)
        touched = {name for name in after if after[name] != before.get(name)}
        assert touched == {row.file, row.registry} and before.keys() < after.keys()
        change = difflib.ndiff(
            registry.splitlines(), (tree / row.registry).read_text().splitlines()
        )
        assert [line[0] for line in change if line[0] in "+-"] == ["+"]
    return tree


def within(tree: Path, *arguments: str) -> Finished:
    """Run Python on the copy."""
    env = {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "DATHVD_COPY": "1"}
    words = [sys.executable, "-m", *arguments]
    done = run(words, cwd=tree, env=env, timeout=300)
    assert done.code == 0, done.output
    return done


@pytest.mark.slow
@pytest.mark.skipif("DATHVD_COPY" in os.environ, reason="this is the copy")
def test_the_tables_of_laws_hold_every_new_component(tree: Path) -> None:
    names = [row.name for row in ROWS]
    chosen = " or ".join([*names, "in_the_ball", "layers"])
    files = [f"tests/single/test_{law}.py" for law in LAWS]
    done = within(tree, "pytest", "-v", "-p", "no:cacheprovider", "-k", chosen, *files)
    passed = [line for line in done.stdout.splitlines() if "PASSED" in line]
    counts = {name: sum(name in line for line in passed) for name in names}
    # each is under the laws of its kind; some kinds have one parametrised law,
    # the others several beside that of being in the registry
    assert all(count >= 1 for count in counts.values()), counts
    several = ("shortened", "corner", "focal", "slim", "signs")
    assert all(counts[name] >= 3 for name in several), counts


@pytest.mark.slow
@pytest.mark.skipif("DATHVD_COPY" in os.environ, reason="this is the copy")
def test_a_run_is_made_of_the_new_components_alone(tree: Path) -> None:
    chosen = {
        "data.name": "stripes",
        "data.options": "{count: 32}",
        "model.name": "slim",
        "attack.name": "corner",
        "objective.name": "focal",
        "compression.name": "shortened",
        "optimizer.name": "signs",
        "optimizer.lr": "0.003",
        "train.epochs": "1",
        "train.batch_size": "16",
    }
    words = as_arguments([f"{field}={value}" for field, value in chosen.items()])
    done = within(tree, "dathvd", "train", "--run-dir", "run", *words)
    assert "shortened by" in done.stdout and "signs, learning rate" in done.stdout
    assert json.loads((tree / "run" / "result.json").read_text())["num_samples"] == 16
    done = within(tree, "dathvd", "evaluate", "run", "--attack", "upright")
    assert "upright linf epsilon 0.15" in done.stdout
    assert "upright" in within(tree, "dathvd", "evaluate", "--help").stdout
