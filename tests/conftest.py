"""What all tests share: one that needs a missing program is skipped with a reason."""

from __future__ import annotations

import compileall
import os
from pathlib import Path

import pytest

from tests.programs import skip_what_lacks_programs

# several files run at a time: threads that wait for a busy core make tiny tensors slow.
# torch reads this when it is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")


FOLDERS = ("system", "parallel", "service", "single")
"""Folders of tests, those whose files take minutes first, as in each folder files with
a slow test do: the last files of several processes then end at almost the same time."""


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package once: where Python may write no bytecode (as
    ``PYTHONDONTWRITEBYTECODE`` says), each of many ranks would compile it anew."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(__file__).parents[1] / "dathvd", quiet=2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_what_lacks_programs(items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (place(item), item.path not in slow))


def place(item: pytest.Item) -> int:
    """When a test's folder has its turn; files and tests keep their order."""
    folder = item.path.parent.name
    return FOLDERS.index(folder) if folder in FOLDERS else len(FOLDERS)
