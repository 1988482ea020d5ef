"""How many workers trained which steps of a run: ``history.jsonl`` in its folder.

Rank 0 adds a line before an attempt's first step: the step that it goes on from and how
many workers it has. A later attempt that goes on from an earlier step undoes what came
after that, so the lines decide which attempt a step of the final weights is of.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dathvd.errors import UserError
from dathvd.files import explain_os_errors, write_text

NAME = "history.jsonl"
_ID = ".id"
_HEX = re.compile(r"[0-9a-f]{16}")


def identify(run: Path) -> str:
    """A name that no other run has, also none that had this folder before.

    Raises:
        UserError: it cannot be read or written.
    """
    file = run / _ID
    if not file.exists():
        write_text(file, secrets.token_hex(8))
    with explain_os_errors("read", file):
        text = file.read_text(encoding="utf-8").strip()
    if not _HEX.fullmatch(text):
        raise UserError(f"{file}: not a run's name; remove it")
    return text


@dataclass(frozen=True)
class Attempt:
    """Workers that trained together, from a step on."""

    step: int
    """Steps done before its first one."""
    size: int
    """Workers."""
    guard_actions: int = 0
    """How often the guard had changed the run's way by then."""
    by_nodes: bool = False
    """Whether gradients went by the hierarchical exchange, which sums node by node."""


@dataclass(frozen=True)
class Segment:
    """A stretch of steps that equally many workers trained."""

    size: int
    end: int
    """The step after its last one; 0 where it goes on to the run's end."""


def read(run: Path) -> list[Attempt]:
    """The attempts of a run folder so far, in order; a torn last line is left out.

    Raises:
        UserError: the file cannot be read or is not a history.
    """
    file = run / NAME if run.is_dir() else run
    with explain_os_errors("read", file):
        text = file.read_text(encoding="utf-8") if file.exists() else ""
    lines = text.split("\n")[:-1]  # what ends without a newline was not finished
    try:
        return [Attempt(**json.loads(line)) for line in lines if line.strip()]
    except (ValueError, TypeError):
        raise UserError(f"{file}: not a history of dathvd") from None


def append(run: Path, attempt: Attempt) -> None:
    """Enter an attempt, durably.

    Raises:
        UserError: it cannot be written.
    """
    file = run / NAME
    whole = read(run)
    with explain_os_errors("write", file):
        lines = [json.dumps(asdict(each)) + "\n" for each in (*whole, attempt)]
        with file.open("r+" if file.exists() else "w", encoding="utf-8") as stream:
            stream.write("".join(lines))
            stream.truncate()
            stream.flush()
            os.fsync(stream.fileno())


def is_current(attempts: Sequence[Attempt], number: int, step: int) -> bool:
    """Whether what attempt ``number`` reached by ``step`` is a part of the run.

    It is not where a later attempt went on from an earlier step.
    """
    return number < len(attempts) and all(
        each.step >= step for each in attempts[number + 1 :]
    )


def segments(attempts: Sequence[Attempt]) -> list[Segment]:
    """The stretches that the final weights are of, without what was undone.

    Raises:
        UserError: the guard changed the run's way, which is no function of the step; or
            gradients were summed node by node, which workers on one machine do not.
    """
    if any(each.guard_actions for each in attempts):
        raise UserError("history: the guard acted in this run; it cannot be replayed")
    if any(each.by_nodes for each in attempts):
        raise UserError(
            "history: this run exchanged gradients node by node, which a replay on one "
            "machine does not (compression.exchange: two-way can be replayed)"
        )
    kept: list[Attempt] = []
    for attempt in attempts:
        kept = [each for each in kept if each.step < attempt.step]
        if not kept or kept[-1].size != attempt.size:
            kept.append(attempt)
    ends = [each.step for each in kept[1:]] + [0]
    return [Segment(each.size, end) for each, end in zip(kept, ends)]
