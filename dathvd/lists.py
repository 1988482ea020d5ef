"""Lists on the command line, such as ``1,2,4``, with a clear line for what is wrong."""

from __future__ import annotations

from dathvd.config.base import parse_fraction
from dathvd.errors import UserError


def words(text: str | None) -> tuple[str, ...]:
    """``"a, b"`` as ("a", "b"), each once; none where the option was not given."""
    parts = (part.strip() for part in (text or "").split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


def fractions(option: str, text: str | None) -> tuple[float, ...]:
    """``"0,0.1,8/255"`` as numbers.

    Raises:
        UserError: a part is not a number.
    """
    values = [parse_fraction(word) for word in words(text)]
    for value in values:
        if not isinstance(value, float):
            raise UserError(f"{option}: expected a number or 8/255, got {value!r}")
    return tuple(values)


def named_fractions(option: str, text: str | None) -> dict[str, float] | None:
    """``"linf=8/255,l2=0.5"`` as numbers by name; None where the option is not given.

    Raises:
        UserError: a part has no name, or its value is not a number.
    """
    if text is None:
        return None
    pairs = [word.partition("=") for word in words(text)]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise UserError(f"{option}: expected NAME=NUMBER, got {name + equals!r}")
    return {name: fractions(option, value)[0] for name, _, value in pairs}


def integers(option: str, text: str | None, least: int = 0) -> tuple[int, ...]:
    """``"1,10,50"`` as whole numbers, in the order in which they were given.

    Raises:
        UserError: a part is not a whole number of at least ``least``.
    """
    for word in words(text):
        if not word.isdecimal() or int(word) < least:
            raise UserError(
                f"{option}: expected whole numbers from {least} on, such as 1,2,4, "
                f"got {word!r}"
            )
    return tuple(int(word) for word in words(text))


def some_integers(option: str, text: str, least: int = 0) -> tuple[int, ...]:
    """The same where at least one number is needed.

    Raises:
        UserError: a part is not such a number, or there is none.
    """
    found = integers(option, text, least)
    if not found:
        raise UserError(f"{option}: expected whole numbers such as 1,2,4, got {text!r}")
    return found
