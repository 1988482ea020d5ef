"""The files of a checkpoint: tensors and plain values, which no loading executes."""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from dathvd import dealing
from dathvd.errors import UserError
from dathvd.files import explain_os_errors, write_atomically

FORMAT = 1
DEALT = 2
"""The format of a ``model.pt`` whose optimizer other ranks wrote a part of."""
STATE_ID = "state_id"
"""The key, in each file of a checkpoint, of the state that it is a part of; older files
have none. Equal states have equal ids, however they were reached."""


class Unreadable(UserError):
    """A damaged checkpoint; an older one may be intact."""

    unreadable = True


def save_file(path: Path, state: dict[str, Any]) -> None:
    """Write a dictionary of tensors and plain values atomically, tensor by tensor."""
    # given a file rather than its name, torch hands on what a full disk raises
    write_atomically(path, lambda file: _save(state, file))


def _save(state: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # torch trips over its own cleaning up
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load_bytes(data: bytes, name: str) -> dict[str, Any]:
    """Read what ``save_file`` wrote; never executes code.

    Raises:
        Unreadable: the bytes are damaged, no checkpoint at all, or hold anything but
            tensors and plain values.
    """
    return _load(io.BytesIO(data), name)


def _load(file: BinaryIO, name: str) -> dict[str, Any]:
    problem = Unreadable(f"checkpoint {name}: corrupted, or not a checkpoint of dathvd")
    try:
        # torch does not compare the archive's checksums; a flipped bit would train on
        with zipfile.ZipFile(file) as archive:
            if archive.testzip() is not None:
                raise problem
        file.seek(0)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (
        zipfile.BadZipFile,
        zlib.error,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ):
        raise problem from None
    if not isinstance(state, dict) or state.get("format") not in (FORMAT, DEALT):
        raise UserError(f"checkpoint {name}: not a checkpoint of dathvd {FORMAT=}")
    return state


def map_tensors(tree: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same dictionaries and lists with each tensor replaced by a function of it."""
    return dealing.walk(tree, lambda path, each: function(each))


def copied(tree: Any) -> Any:
    """The same with tensors of its own on the host."""
    return map_tensors(tree, lambda each: each.detach().to("cpu", copy=True))


def load_file(path: Path) -> dict[str, Any]:
    """Read a file of a checkpoint.

    Raises:
        UserError: it cannot be read, is damaged, or is not a checkpoint.
    """
    with explain_os_errors("read", path), path.open("rb") as file:
        return _load(file, str(path))


def load_networks(path: Path) -> dict[str, Any]:
    """Read a ``model.pt`` without its optimizer.

    Raises:
        UserError: it cannot be read, is damaged, or is not a checkpoint.
    """
    return {**load_file(path), "optimizer": {}}


def load_whole(path: Path) -> dict[str, Any]:
    """Read a ``model.pt`` and what other ranks wrote of its optimizer.

    Raises:
        UserError: a file cannot be read, is damaged, or is not a checkpoint.
    """
    state = load_file(path)
    if state["format"] == DEALT:
        names = dealing.files(state["optimizer"])
        parts = [load_file(path.with_name(name)) for name in names]
        tensors = [part["tensors"] for part in parts]
        if {part.get(STATE_ID) for part in parts} - {state.get(STATE_ID)}:
            raise Unreadable(f"checkpoint {path.parent}: its parts do not fit")
        try:
            state["optimizer"] = dealing.gathered(state["optimizer"], tensors)
        except KeyError:
            raise Unreadable(
                f"checkpoint {path.parent}: its parts do not fit"
            ) from None
    return state
