"""Folders are replaced and removed so that a kill at any moment costs no good one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dathvd import checkpoint, shared_disk
from dathvd.checkpoint import Unreadable
from dathvd.training.reading import Seen, load_whole, read_part


class Killed(BaseException):
    """The process ends here."""


def make(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "file").write_text(text)
    return folder


def test_a_replacement_that_is_not_there_leaves_what_was(tmp_path: Path) -> None:
    old = make(tmp_path / "old", "good")
    with pytest.raises(FileNotFoundError):
        shared_disk.put_in_place(tmp_path / "new", old)
    assert (old / "file").read_text() == "good" and os.listdir(tmp_path) == ["old"]


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_a_kill_while_replacing_costs_neither(
    tmp_path: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill comes before that rename, or before the removal that follows."""
    old, new = make(tmp_path / "name", "old"), make(tmp_path / "new", "new")
    good, calls = os.rename, 0

    def rename(*paths: Path) -> None:
        nonlocal calls
        if calls == renames:
            raise Killed
        calls += 1
        good(*paths)

    def never(*given: object, **named: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", rename)
        patched.setattr(shutil, "rmtree", never)
        with pytest.raises(Killed):
            shared_disk.put_in_place(new, old)
    shared_disk.tidy(tmp_path)
    expected = "new" if renames == 3 else "old"
    assert (old / "file").read_text() == expected
    assert sorted(os.listdir(tmp_path)) == ["name"] + ["new"] * (renames < 3)


def test_leftovers_go_but_damaged_checkpoints_stay(tmp_path: Path) -> None:
    run, step = tmp_path, "step-00000004"
    folder = run / "checkpoints"
    stay = [step, f".{step}.damaged", "notes"]
    go = [f".{step}.writing", f".{step}.{shared_disk.new_id()}-3.writing"]
    go += [f".{step}.{shared_disk.new_id()}.removed", f".{step}.{'0' * 16}.replaced"]
    for name in (*stay, *go):
        make(folder / name, name)
    checkpoint.tidy(run)
    assert sorted(os.listdir(folder)) == sorted(stay)
    assert (folder / step / "file").read_text() == step


def written(run: Path, state_id: str) -> Path:
    final = checkpoint.checkpoint_folder(run, 1)
    for rank, shared in ((0, {"optimizer": {}}), (1, None)):
        checkpoint.write_rank_files(final, shared, {}, rank, state_id=state_id)
    checkpoint.publish(final, 1)
    return final


def test_a_file_that_rank_0_does_not_see_is_not_waited_for(tmp_path: Path) -> None:
    """A disk of its own that holds nothing, or what an earlier attempt left there."""
    final = written(tmp_path, "a-1")
    with pytest.raises(Unreadable, match="of another state than its model.pt"):
        read_part(final, 1, Seen({}, "b-1"))
    (final / "rank-00001.pt").unlink()
    sizes = {p.name: p.stat().st_size for p in final.iterdir()}
    with pytest.raises(Exception, match="cannot read .*rank-00001.pt") as caught:
        read_part(final, 1, Seen(sizes, "a-1"))
    assert getattr(caught.value, "unreadable", False)


def test_damage_is_not_waited_for(tmp_path: Path) -> None:
    final = written(tmp_path, "a-1")
    for name in ("rank-00001.pt", "model.pt"):
        data = (final / name).read_bytes()
        (final / name).write_bytes(data[: len(data) // 2])
    sizes = {p.name: p.stat().st_size for p in final.iterdir()}
    with pytest.raises(Unreadable, match="corrupted"):
        read_part(final, 1, Seen(sizes, "a-1"))
    with pytest.raises(Unreadable, match="corrupted"):
        load_whole(final / "model.pt", patience=60)


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    final = written(tmp_path, "")
    assert read_part(final, 1, Seen({}, None))["format"] == checkpoint.FORMAT
