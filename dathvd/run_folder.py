"""The run folder: what a run writes, and where."""

from __future__ import annotations

import contextlib
import itertools
import json
import platform
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from dathvd.config import Config, dump_config, load_config
from dathvd.errors import UserError
from dathvd.files import explain_os_errors, make_folder, write_json, write_text

# These fields may change between a run and its continuation: they do not change the
# result.
_FREE = {
    ("train", "device"),
    ("train", "check_every"),
    ("train", "checkpoint_every"),
    ("train", "keep_checkpoints"),
    ("train", "max_steps"),
}


def make_default_run_folder(config: Config) -> Path:
    """Make a dated folder under ``runs/`` that no other run has.

    Raises:
        UserError: it cannot be made.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    names = f"{config.data.name}-{config.attack.name}".replace(":", ".")
    stem = f"{stamp}-{names}"
    make_folder(Path("runs"))
    for number in itertools.count(1):
        folder = Path("runs") / (stem if number == 1 else f"{stem}-{number}")
        with explain_os_errors("create", folder), contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("itertools.count has no end")


def prepare(run: Path, config: Config) -> None:
    """Create the folder, or see that it is this configuration's.

    Raises:
        UserError: it cannot be written, or belongs to another configuration.
    """
    make_folder(run)
    file = run / "config.yaml"
    if file.exists():
        different = first_difference(load_config(file), config)
        if different:
            raise UserError(
                f"run folder {run}: holds a run with another configuration "
                f"({different}); choose another --run-dir"
            )
    write_text(file, dump_config(config))


def first_difference(old: Config, new: Config) -> str | None:
    """The first field that would change the result, as ``section.field: old → new``."""
    before, after = old.model_dump(), new.model_dump()
    for section, value in before.items():
        if section == "evaluation":
            continue
        if not isinstance(value, dict):
            if value != after[section]:
                return f"{section}: {value!r} there, {after[section]!r} here"
            continue
        for field in {**value, **after[section]}:  # options may be on one side alone
            entry, other = value.get(field, {}), after[section].get(field, {})
            if (section, field) not in _FREE and entry != other:
                return f"{section}.{field}: {entry!r} there, {other!r} here"
    return None


def truncate_metrics(run: Path, step: int) -> None:
    """Drop the metrics of steps after ``step``, which a resumed run writes again."""
    file = run / "metrics.jsonl"
    if file.exists():
        kept = [row for row in read_metrics(run) if row["step"] <= step]
        write_text(file, "".join(json.dumps(row) + "\n" for row in kept))


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``; a last line that was cut off is left out."""
    rows = []
    file = run / "metrics.jsonl"
    with explain_os_errors("read", file):
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_result(run: Path, result: dict[str, Any]) -> None:
    """Write ``result.json``."""
    write_json(run / "result.json", result)


def read_result(run: Path) -> dict[str, Any] | None:
    """``result.json`` of a finished run, else None."""
    file = run / "result.json"
    if not file.exists():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{file}: not a result of dathvd; remove it") from None
    return dict(value)


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    names = ("dathvd", "torch", "horovod", "numpy", "mpi4py", "torchvision")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
