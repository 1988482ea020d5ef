"""Checkpoints: atomic, complete, and loadable without executing code.

A checkpoint is a folder ``checkpoints/step-00001234``: ``model.pt`` with what all ranks
share, and ``rank-00000.pt`` … with what differs by rank. It is written under
a temporary name and renamed when every rank has finished its file. The files of one
checkpoint name the same state, by which a host sees that they belong together.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from dathvd import dealing, shared_disk
from dathvd.config import Config, explain
from dathvd.errors import UserError
from dathvd.files import (
    explain_os_errors,
    make_folder,
    write_atomically,
    write_json,
)

FORMAT = 1
DEALT = 2
"""The format of a ``model.pt`` whose optimizer other ranks wrote a part of."""
BEST = "best.json"
"""The file of a checkpoint that says which one was the best when it was written."""
Which = Literal["last", "best"]
"""The newest checkpoint of a run, or the one that ``train.select: best`` kept."""
Weights = Literal["raw", "ema"]
"""The weights of the last step, or their moving average (``train.ema_decay``)."""
Trust = bool | Collection[str]
"""Which components outside of dathvd a checkpoint may have imported: all, none, or
those of these places. Importing one runs its module's code."""
STATE_ID = "state_id"
"""The key, in each file of a checkpoint, of the state that it is a part of; older files
have none. Equal states have equal ids, however they were reached."""
_NAME = re.compile(r"step-(\d{8})")
_STAGED = re.compile(r"\.(step-\d{8})(?:\.[0-9a-f-]+)?\.writing")


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
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
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


def resolve(path: str | Path, which: Which = "last") -> Path:
    """The checkpoint folder that a run folder or a checkpoint folder stands for.

    Args:
        path: a run folder, or a checkpoint folder, which stands for itself.
        which: of a run folder, the newest or the best.

    Raises:
        UserError: there is none.
    """
    place = Path(path)
    if not place.exists():
        raise UserError(f"run {place}: no such folder")
    if (place / "model.pt").is_file():
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


def stored_config(state: dict[str, Any], name: str) -> Config:
    """The configuration of a loaded ``model.pt``; imports nothing that it names.

    Raises:
        UserError: it is not valid here, such as one with a component unknown here.
    """
    try:
        return Config.model_validate_json(state["config"])
    except ValidationError as error:
        raise UserError(f"checkpoint {name}: {explain(error)}") from None


def require_trust(
    config: Config, fields: Collection[str], name: str, trust: Trust
) -> None:
    """Refuse a stored configuration that would have code outside of dathvd imported.

    Args:
        config: of a checkpoint.
        fields: of the components that are about to be made, such as ``model.name``.
        name: the checkpoint's.
        trust: what may be imported all the same.

    Raises:
        UserError: one of the components lies outside of dathvd and is not trusted.
    """
    refused = [
        f"{field} {place}"
        for field, place in config.foreign().items()
        if field in fields
        and not (trust if isinstance(trust, bool) else place in trust)
    ]
    if refused:
        raise UserError(
            f"checkpoint {name}: names code outside of dathvd ({', '.join(refused)}), "
            "which loading a checkpoint does not run; if you trust it, say --trust, or "
            "load_model(run, network=...) in Python"
        )


def restore_model(
    state: dict[str, Any],
    name: str,
    weights: Weights = "raw",
    *,
    network: nn.Module | None = None,
    trust: Trust = False,
) -> tuple[nn.Module, Config]:
    """The network and configuration of a loaded ``model.pt``.

    Args:
        state: what the file holds.
        name: the file's, for errors.
        weights: ``raw`` or ``ema``.
        network: takes the weights; None makes the one that the configuration names.
        trust: whether that one may lie outside of dathvd.

    Raises:
        UserError: the checkpoint is another model's, holds no such weights, or names a
            network outside of dathvd that is neither given nor trusted.
    """
    from dathvd.models import build_model, finish_model

    config = stored_config(state, name)
    image_shape = tuple(state["image_shape"])
    if network is None:
        require_trust(config, ["model.name"], name, trust)
        classes = int(state["num_classes"])
        model = build_model(config.model, image_shape, num_classes=classes)
    else:
        model = finish_model(network, config.model, image_shape)
    load_weights(model, stored_weights(state, name, weights), name)
    return model.eval(), config


def stored_weights(state: dict[str, Any], name: str, weights: Weights) -> Any:
    """The ``state_dict`` of those weights in a loaded ``model.pt``.

    Raises:
        UserError: it holds no such weights.
    """
    if weights == "ema" and "ema" not in state:
        raise UserError(
            f"checkpoint {name}: holds no moving average of the weights, being "
            "trained with train.ema_decay 0: take the raw weights"
        )
    return state["ema" if weights == "ema" else "model"]


def load_weights(model: nn.Module, weights: dict[str, Any], name: str) -> None:
    """Fill the model.

    Raises:
        UserError: names or shapes differ; the first difference is named.
    """
    expected = model.state_dict()
    for key in [*expected, *weights]:
        if key not in weights or key not in expected:
            where = "lacks" if key not in weights else "has an unknown"
            raise UserError(f"checkpoint {name}: of another model: {where} {key!r}")
        if expected[key].shape != weights[key].shape:
            raise UserError(
                f"checkpoint {name}: of another model: {key!r} has shape "
                f"{tuple(weights[key].shape)}, expected {tuple(expected[key].shape)}"
            )
    model.load_state_dict(weights)


def load_model(
    path: str | Path,
    weights: Weights = "raw",
    *,
    checkpoint: Which = "last",
    network: nn.Module | None = None,
) -> nn.Module:
    """The trained network of a run, ready to use; needs no Horovod.

    Args:
        path: a run folder or a checkpoint folder.
        weights: ``raw`` for those of its step, ``ema`` for their moving average.
        checkpoint: of a run folder, the ``last`` one or the ``best``, which
            ``train.select: best`` keeps.
        network: a fresh network of the run's kind, whose weights are replaced. Needed
            where ``model.name`` lies outside of dathvd: a checkpoint never has such
            code imported by itself.

    Returns:
        A module in eval mode on the CPU, from images ``[batch, channels, height,
        width]`` float32 in [0, 1] to logits ``[batch, classes]``.

    Raises:
        UserError: there is no checkpoint, it is corrupted, it holds no average, or its
            network lies outside of dathvd and is not given.
    """
    file = resolve(path, checkpoint) / "model.pt"
    state = load_file(file)
    return restore_model(state, str(file), weights, network=network)[0]
