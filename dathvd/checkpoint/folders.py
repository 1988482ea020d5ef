"""The folders of checkpoints: written under another name, published, kept and found."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from dathvd import dealing, shared_disk
from dathvd.checkpoint.files import FORMAT, STATE_ID, save_file
from dathvd.errors import UserError
from dathvd.files import explain_os_errors, make_folder, write_json

BEST = "best.json"
"""The file of a checkpoint that says which one was the best when it was written."""
Which = Literal["last", "best"]
"""The newest checkpoint of a run, or the one that ``train.select: best`` kept."""
_NAME = re.compile(r"step-(\d{8})")
_STAGED = re.compile(r"\.(step-\d{8})(?:\.[0-9a-f-]+)?\.writing")


def step_of(folder: Path) -> int:
    """The step after which a checkpoint was written, by its folder's name."""
    return int(folder.name.removeprefix("step-"))


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` steps lies."""
    return run / "checkpoints" / f"step-{step:08d}"


def find_checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run folder, oldest first."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name))


def staging_folder(final: Path, write_id: str = "") -> Path:
    """Where a checkpoint is written before it is renamed to ``final``.

    With an id the name is one that no host's cache knows.
    """
    middle = f".{write_id}" if write_id else ""
    return final.with_name(f".{final.name}{middle}.writing")


def write_rank_files(
    final: Path,
    shared: dict[str, Any] | None,
    own: dict[str, Any],
    rank: int,
    best: dict[str, Any] | None = None,
    dealt: dict[str, Any] | None = None,
    write_id: str = "",
    state_id: str = "",
) -> None:
    """This rank's part of a checkpoint, in the staging folder.

    Args:
        final: the checkpoint.
        shared: what all ranks share; None where another rank writes it.
        own: what this rank alone has.
        rank: this one.
        best: the best checkpoint's ``step`` and ``robust_accuracy``, written with what
            is shared.
        dealt: what this rank writes of what ``shared`` says is elsewhere.
        write_id: the same on all ranks, and never used before; for the staging folder.
        state_id: of the state that all files are of; the same on all ranks.
    """
    staging = staging_folder(final, write_id)
    make_folder(staging)
    head = {"format": FORMAT, **({STATE_ID: state_id} if state_id else {})}
    if shared is not None:
        save_file(staging / "model.pt", {**head, **shared})
        if best is not None:
            write_json(staging / BEST, best)
    if dealt:
        file = staging / dealing.file_name(rank)
        save_file(file, {**head, "tensors": dealt})
    save_file(staging / f"rank-{rank:05d}.pt", {**head, **own})


def aside(final: Path) -> Path:
    """Where a damaged checkpoint is kept, out of the way."""
    return final.with_name(f".{final.name}.damaged")


def set_aside(final: Path) -> None:
    """Rename a damaged checkpoint, so that nothing takes it for the newest.

    Raises:
        UserError: it cannot be renamed.
    """
    shared_disk.remove(aside(final))
    with explain_os_errors("rename", final), contextlib.suppress(FileNotFoundError):
        os.replace(final, aside(final))


def publish(
    final: Path, keep: int, spare: Iterable[int] = (), write_id: str = ""
) -> None:
    """Rename the staging folder and drop older checkpoints beyond ``keep``.

    Args:
        final: the checkpoint.
        keep: how many of the newest stay.
        spare: steps whose checkpoints stay at any age.
        write_id: that it was written with.

    Raises:
        UserError: it is not there or cannot be renamed; nothing is removed then.
    """
    run = final.parent.parent
    with explain_os_errors("write", final):
        # one of the same step is there where a run went back
        shared_disk.put_in_place(staging_folder(final, write_id), final)
    kept = {checkpoint_folder(run, step) for step in spare} | {final}
    for old in find_checkpoints(run)[:-keep]:
        if old not in kept:
            shared_disk.remove(old)


def discard_after(final: Path) -> None:
    """Drop the checkpoints of later steps than this one's."""
    for newer in find_checkpoints(final.parent.parent):
        if newer.name > final.name:
            shared_disk.remove(newer)


def discard_staging(final: Path, write_id: str = "") -> None:
    """Remove a checkpoint that could not be finished."""
    shared_disk.remove(staging_folder(final, write_id))


def tidy(run: Path) -> None:
    """Remove what earlier attempts left unfinished; one process at a time calls it.

    Whoever lists the checkpoints afterwards sees what other hosts have done to them.
    """
    folder = run / "checkpoints"
    shared_disk.refresh(folder)
    shared_disk.tidy(folder)
    for left in sorted(folder.glob(".step-*")):
        if _STAGED.fullmatch(left.name):
            shared_disk.remove(left)


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint, not a run that has some."""
    return (path / "model.pt").is_file()


def resolve(path: str | Path, which: Which = "last") -> Path:
    """The checkpoint folder that a run folder or a checkpoint folder stands for.

    Args:
        path: a run folder, or a checkpoint folder, which stands for itself.
        which: of a run folder, the newest or the best.

    Raises:
        UserError: there is none, or the best is asked of a checkpoint folder.
    """
    place = Path(path)
    if not place.exists():
        raise UserError(f"run {place}: no such folder")
    if is_checkpoint(place):
        if which == "best":
            raise UserError(
                f"run {place}: is one checkpoint; the best is chosen of a run folder"
            )
        return place
    found = find_checkpoints(place)
    if not found:
        raise UserError(f"run {place}: holds no checkpoint; was it trained?")
    return found[-1] if which == "last" else _best(place, found[-1])


def read_best(folder: Path) -> dict[str, Any] | None:
    """Step and probed robust accuracy of the best, as that checkpoint knows them.

    Raises:
        UserError: the file is damaged.
    """
    file = folder / BEST
    if not file.is_file():
        return None
    with explain_os_errors("read", file):
        text = file.read_text(encoding="utf-8")
    try:
        value = json.loads(text)
        return {"step": int(value["step"]), **value}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}: not a file of dathvd; remove it") from None


def _best(run: Path, newest: Path) -> Path:
    best = read_best(newest)
    if best is None:
        raise UserError(
            f"run {run}: has no best checkpoint, being trained with train.select last"
        )
    folder = checkpoint_folder(run, best["step"])
    if not folder.is_dir():
        raise UserError(f"run {run}: its best checkpoint, {folder.name}, is not there")
    return folder
