"""Checkpoints on a disk that two hosts share, each with a view that is 30 seconds old.

The file systems are real (``tests/stale_mounts.py``). Each law holds for whatever a
host may do after another has published: what it remembers costs no good checkpoint.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dathvd import checkpoint
from dathvd.errors import MachineFault, UserError
from dathvd.training import reading
from dathvd.training.reading import Seen, read_part
from tests.stale_mounts import build, mounted

OLD, NEW = "0123456789abcdef-1", "fedcba9876543210-1"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("file system"))


@dataclass
class Disk:
    """The same run folder: on the disk itself, and as rank 0's and rank 1's hosts see
    it."""

    real: Path
    root: Path
    other: Path

    def final(self, view: Path, step: int = 4) -> Path:
        return checkpoint.checkpoint_folder(view, step)

    def write(self, write_id: str, step: int = 4) -> None:
        """Both ranks' files, rank 1's first, of a state of the same name."""
        ids: dict[str, Any] = {"write_id": write_id, "state_id": write_id}
        checkpoint.write_rank_files(
            self.final(self.other, step), None, {"of": step}, 1, **ids
        )
        checkpoint.write_rank_files(
            self.final(self.root, step), {"step": step}, {}, 0, **ids
        )

    def publish(self, write_id: str, step: int = 4, keep: int = 2) -> None:
        self.write(write_id, step)
        checkpoint.publish(self.final(self.root, step), keep, write_id=write_id)

    def assert_newest(self, write_id: str, step: int = 4) -> None:
        """On the disk itself that checkpoint is the newest one, and whole."""
        newest = checkpoint.find_checkpoints(self.real)[-1]
        assert checkpoint.step_of(newest) == step
        for name in ("model.pt", "rank-00000.pt", "rank-00001.pt"):
            state = checkpoint.load_file(newest / name)
            assert state[checkpoint.STATE_ID] == write_id


@pytest.fixture
def views(program: Path, tmp_path: Path) -> Iterator[Callable[[float], Disk]]:
    with contextlib.ExitStack() as stack:

        def make(seconds: float) -> Disk:
            folders = stack.enter_context(mounted(program, tmp_path, seconds))
            return Disk(tmp_path / "disk", *folders)

        yield make


@pytest.fixture
def disk(views: Callable[[float], Disk]) -> Disk:
    return views(30)


def test_the_emulation_is_as_stale_as_it_says(disk: Disk) -> None:
    """What the laws below are about: removing a name removes what it once stood for."""
    (disk.other / "draft").mkdir()
    (disk.other / "draft" / "file").touch()
    (disk.root / "draft").rename(disk.root / "published")
    assert (disk.other / "draft" / "file").exists()
    (disk.other / "draft" / "file").unlink()
    assert not list((disk.real / "published").iterdir())


def give_up(disk: Disk) -> None:
    """A rank that heard of an error which the others did not."""
    checkpoint.discard_staging(disk.final(disk.other), OLD)


def begin_anew(disk: Disk) -> None:
    """Rank 0 of the next attempt, which runs on that host."""
    checkpoint.tidy(disk.other)


def publish_again(disk: Disk) -> None:
    """Without rank 0's knowledge; an error is as good as nothing done."""
    with contextlib.suppress(UserError):
        checkpoint.publish(disk.final(disk.other), 1, write_id=OLD)


@pytest.mark.parametrize("action", [give_up, begin_anew, publish_again])
def test_what_a_host_still_takes_for_unfinished_is_not_removed(
    disk: Disk, action: Callable[[Disk], None]
) -> None:
    disk.publish(OLD)
    staging = checkpoint.staging_folder(disk.final(disk.other), OLD)
    assert (staging / "rank-00001.pt").exists(), "the view is not stale"
    action(disk)
    disk.assert_newest(OLD)


def test_the_same_step_can_be_published_anew_by_another_host(disk: Disk) -> None:
    """Rank 0 has moved to the other host and gone back to an earlier step."""
    disk.publish(OLD)
    disk.write(NEW)
    checkpoint.publish(disk.final(disk.other), 1, write_id=NEW)
    disk.assert_newest(NEW)
    assert [p.name for p in (disk.real / "checkpoints").iterdir()] == ["step-00000004"]


def test_pruning_keeps_what_was_published_whatever_the_host_remembers(
    disk: Disk,
) -> None:
    """A later step that the host has seen, and that is damaged and set aside now."""
    disk.publish(OLD, step=8)
    list(disk.final(disk.other, 8).iterdir())
    checkpoint.set_aside(disk.final(disk.root, 8))
    disk.write(NEW, step=4)
    checkpoint.publish(disk.final(disk.other, 4), 1, write_id=NEW)
    disk.assert_newest(NEW, step=4)
    checkpoint.set_aside(disk.final(disk.other, 8))  # gone already, which is no error


def read_by_rank_1(disk: Disk) -> int:
    sizes = {p.name: p.stat().st_size for p in disk.final(disk.root).iterdir()}
    return int(read_part(disk.final(disk.other), 1, Seen(sizes, NEW))["of"])


def test_a_rank_waits_for_the_file_that_rank_0_sees(
    views: Callable[[float], Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for an older one of that name, and not for ever."""
    disk = views(2)
    disk.publish(OLD)
    seen = Seen({}, OLD)
    assert read_part(disk.final(disk.other), 1, seen)["of"] == 4
    checkpoint.set_aside(disk.final(disk.root))
    disk.publish(NEW)
    monkeypatch.setattr(reading, "PATIENCE", 0.0)
    with pytest.raises(MachineFault, match="does not see what rank 0 sees"):
        read_by_rank_1(disk)
    monkeypatch.undo()
    began = time.monotonic()
    assert read_by_rank_1(disk) == 4
    assert time.monotonic() - began < 10
