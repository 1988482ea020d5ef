"""What an evaluation has judged so far, kept on disk a part at a time.

``FOLDER/evaluation.json`` says of what, ``FOLDER/parts/START-STOP.json`` holds the
samples from place START to before STOP: for each attack a string of 1 (right) and 0. A
part is replaced whole after each attack, so that an evaluation that was interrupted
loses one attack on one part at most, and goes on with any number of workers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dathvd.errors import UserError
from dathvd.files import explain_os_errors, make_folder, write_json, write_text

FORMAT = 2


@dataclass
class Part:
    """Consecutive samples ``[start, stop)`` and what is known of them."""

    start: int
    stop: int
    right: dict[str, list[bool]] = field(default_factory=dict)
    """Whether each sample is right, a list for each cell by the cell's key."""


class Store:
    """The folder of one evaluation.

    Args:
        folder: where the parts are kept; made if need be.
        identity: all that must be equal for parts to belong together, as JSON values.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self._identity = {"format": FORMAT, **identity}

    @staticmethod
    def batch_size_in(folder: Path) -> int | None:
        """The size of parts of the evaluation that a folder holds; None without one.

        Raises:
            UserError: it cannot be read.
        """
        file = folder / "evaluation.json"
        size = _read_json(file).get("batch_size") if file.exists() else None
        return size if isinstance(size, int) and size > 0 else None

    def open(self) -> None:
        """Make the folder, or see that it is this evaluation's; rank 0 calls it.

        Raises:
            UserError: it cannot be written, or holds an evaluation of something else.
        """
        make_folder(self.folder / "parts")
        file = self.folder / "evaluation.json"
        if not file.exists():
            write_json(file, self._identity)
            return
        there = _read_json(file)
        for name in [*self._identity, *there]:
            if there.get(name) != self._identity.get(name):
                raise UserError(
                    f"{self.folder}: holds an evaluation with another {name} "
                    f"({_brief(there.get(name))} there, "
                    f"{_brief(self._identity.get(name))} here); choose another --output"
                )

    def read(self) -> list[Part]:
        """All parts; rank 0 calls it.

        Raises:
            UserError: a file is no part of an evaluation.
        """
        with explain_os_errors("read", self.folder):
            files = sorted((self.folder / "parts").glob("[0-9]*.json"))
        return [_parse(file) for file in files]

    def write(self, part: Part) -> None:
        """Replace that part; only one rank writes it.

        Raises:
            UserError: it cannot be written.
        """
        make_folder(self.folder / "parts")  # on a host that does not share rank 0's
        right = {key: _pack(flags) for key, flags in part.right.items()}
        value = {"start": part.start, "stop": part.stop, "right": right}
        name = f"{part.start:08d}-{part.stop:08d}.json"
        write_text(self.folder / "parts" / name, json.dumps(value) + "\n")


def _pack(flags: Sequence[bool]) -> str:
    return "".join("01"[flag] for flag in flags)


def _read_json(file: Path) -> dict[str, Any]:
    with explain_os_errors("read", file):
        data = file.read_bytes()
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{file}: not a file of an evaluation; remove it")
    return value


def _parse(file: Path) -> Part:
    value = _read_json(file)
    start, stop, right = value.get("start"), value.get("stop"), value.get("right")
    if isinstance(start, int) and isinstance(stop, int) and isinstance(right, dict):
        fits = all(
            isinstance(text, str) and len(text) == stop - start and set(text) <= {*"01"}
            for text in right.values()
        )
        if fits:
            unpacked = {k: [c == "1" for c in text] for k, text in right.items()}
            return Part(start, stop, unpacked)
    raise UserError(f"{file}: not a part of an evaluation; remove it")


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:20]}…"
