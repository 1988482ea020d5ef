"""The errors that a user can cause, and how a wrong name is answered."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

TEMPORARY_FAILURE = 75
"""Exit code (EX_TEMPFAIL) of a run that was asked to stop and saved: run it again."""


class UserError(Exception):
    """Bad input: its message is one clear line, and the exit code is 2."""

    exit_code = 2
    agreed = False
    """Whether every rank raises it together, so that rank 0 alone prints it."""
    told = False
    """Whether it has been printed already."""
    unreadable = False
    """Whether a file is damaged or cannot be read: another copy may do."""


class MachineFault(UserError):
    """A disk or a host that failed: told in one line too, but worth another try."""

    exit_code = 1


def error_line(message: str) -> str:
    """How an error is told: one line, whatever breaks the message has."""
    return f"dathvd: error: {' '.join(message.split())}"


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint such as ``(did you mean 'epochs'?)`` or the list of choices."""
    names = sorted(choices)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"(did you mean {close[0]!r}?)"
    return f"(choices: {', '.join(names)})"


def choose(what: str, name: str, registry: Mapping[str, T]) -> T:
    """The registry's entry of that name.

    Raises:
        UserError: no entry has that name; the message holds the nearest one.
    """
    try:
        return registry[name]
    except KeyError:
        raise UserError(f"{what}: unknown {name!r} {nearest(name, registry)}") from None
