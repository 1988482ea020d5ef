"""What the commands around submitted runs share."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from dathvd.errors import UserError
from dathvd.service import record
from dathvd.service.catalogue import Catalogue
from dathvd.service.engines.base import Unreachable
from dathvd.service.observe import observe_all


def catalogue_entry(run: Path) -> None:
    """Index a run. The index is a convenience: without it the command goes on."""
    try:
        catalogue = Catalogue()
        catalogue.put(observe_all([run]))
        catalogue.close()
    except UserError as error:
        print(f"dathvd: warning: {error}", file=sys.stderr)


def resolve(name: str) -> Path:
    """The run folder that a path, a part of a path or the start of a uuid stands for.

    Raises:
        UserError: there is none, or several.
    """
    path = Path(name)
    if (path / record.JOB_FILE).exists():
        return path.absolute()
    catalogue = Catalogue()
    found = catalogue.find(name)
    catalogue.close()
    if len(found) == 1:
        return Path(found[0])
    if found:
        raise UserError(f"run {name}: which of {', '.join(found[:4])}?")
    raise UserError(
        f"run {name}: no such submitted run (dathvd runs lists them; "
        "dathvd runs --rescan ROOT indexes those below a folder)"
    )


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turn an engine's silence into an error of one line."""
    try:
        yield
    except Unreachable as error:
        raise UserError(f"the engine did not answer: {error}") from None
