"""Files are written whole or not at all, and a full disk is one line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dathvd.errors import UserError
from dathvd.files import make_folder, write_atomically, write_json, write_text
from tests.processes import run

# no file of this process may exceed 4 KiB, as on a full disk
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from dathvd.errors import UserError
from dathvd.files import write_text

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
file = Path(sys.argv[1])
write_text(file, "old")
try:
    write_text(file, "new" * 10_000)
except UserError as error:
    print(error)
"""


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})
    write_json(file, {"a": 2})
    assert file.read_text() == '{\n  "a": 2\n}\n'
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    done = run([sys.executable, "-c", FULL_DISK, file])
    assert done.stdout == f"cannot write {file}: File too large\n", done.output
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def fail(file: object) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_atomically(tmp_path / "a", fail)
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write .*: No such file"):
        write_text(tmp_path / "no" / "a", "x")


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot create folder"):
        make_folder(tmp_path / "file" / "sub")
