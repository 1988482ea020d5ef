"""Imports only point down, leaves do not know each other, few know Horovod."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import dathvd
from dathvd.components import OBJECTIVES, PRETEXTS, WITHOUT_CLASSES

ROOT = Path(dathvd.__file__).parent
LAYERS = [
    {"errors"},
    {"registry"},
    {"components"},
    {
        "config",
        "lists",
        "ranks",
        "noise",
        "files",
        "hashing",
        "native",
        "heartbeat",
        "devices",
        "shared_disk",
        "dealing",
        "collector",
    },
    {"convolutions"},
    {"attacks", "objectives", "compression", "optim", "models", "data"},
    {"torchvision_shim"},
    {"runtime", "report", "run_folder", "run_history", "run_lock", "stop"},
    {"distributed", "checkpoint", "weight_files"},
    {"tasks", "foreign"},
    {"evaluation", "pseudo_labels", "export"},
    {"training"},
    {"launch", "doctor", "rig", "benchmark"},
    {"client", "service"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
LEAVES = LAYERS[5]
SHARED_BY_ALL = {"torchvision_shim", "__init__"}
HOROVOD_USERS = {
    "runtime",
    "distributed",
    "doctor",
    "benchmark",
}


def modules() -> Iterator[tuple[str, Path]]:
    """Each file with the name of its part of the package."""
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT).parts[0].removesuffix(".py"), path


def imports(path: Path) -> set[str]:
    """All dotted names that a file imports, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(name: str) -> str | None:
    """The part of dathvd that a dotted name belongs to."""
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "dathvd" and len(pieces) > 1 else None


def height(name: str) -> int:
    """The layer of a part, 0 at the bottom."""
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def test_imports_point_down() -> None:
    wrong = []
    for own, path in modules():
        if own == "__init__":
            continue
        for name in imports(path):
            other = part(name)
            if other is None or other == own or other in SHARED_BY_ALL:
                continue
            if other == "__version__":
                continue
            if height(other) > height(own) or {own, other} <= LEAVES:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_only_the_joints_import_horovod() -> None:
    users = {
        own
        for own, path in modules()
        if any(name.split(".")[0] == "horovod" for name in imports(path))
    }
    assert users <= HOROVOD_USERS


def test_only_the_runtime_imports_mpi4py() -> None:
    users = {
        str(path.relative_to(ROOT))
        for _, path in modules()
        if any(name.split(".")[0] == "mpi4py" for name in imports(path))
    }
    assert users == {"runtime.py"}


def test_tasks_are_told_apart_in_one_table_alone() -> None:
    """Elsewhere a task is asked what it does, not what it is called."""
    where = {
        str(path.relative_to(ROOT))
        for _, path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in PRETEXTS.places
    }
    # the compared methods name a run's folder so
    assert where <= {"components.py", "benchmark/accuracy/methods.py"}
    assert WITHOUT_CLASSES <= PRETEXTS.places.keys() <= OBJECTIVES.places.keys()


def test_the_configuration_needs_no_torch() -> None:
    wrong = [
        path
        for own, path in modules()
        if own
        in (
            "config",
            "components",
            "registry",
            "cli",
            "__main__",
            "errors",
            "ranks",
            "commands",
        )
        and path.name != "__init__.py"
        for node in ast.parse(path.read_text()).body
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "torch" in ast.dump(node)
    ]
    assert not wrong


def test_nothing_unpickles_what_other_ranks_send() -> None:
    """Horovod's collectives of objects execute what arrives; ours carry JSON."""
    for _, path in modules():
        names = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
        }
        assert not {
            n for n in names if n.endswith(("_object", "optimizer_state"))
        }, path
