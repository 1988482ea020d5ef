"""From a place, ``package.module:attribute``, to what is there."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

from dathvd.errors import UserError

_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
PLACE = re.compile(rf"{_NAME}:{_NAME}")


def attribute(place: str) -> Any:
    """What lies at a place within dathvd or the libraries that it needs."""
    module, _, path = place.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def import_component(field: str, place: str) -> Callable[..., Any]:
    """The callable at a place of a user's choice; importing it runs its module's code.

    Args:
        field: of the configuration, with which errors begin.
        place: ``package.module:attribute``.

    Raises:
        UserError: there is none, or its module cannot be imported.
    """
    if not PLACE.fullmatch(place):
        raise UserError(f"{field}: expected package.module:attribute, got {place!r}")
    module, _, path = place.partition(":")
    found: Any = _import(field, place, module)
    for part in path.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, dir(found), n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UserError(
                f"{field}: {place}: {module} has no attribute {part!r}{hint}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"{field}: {place}: a {type(found).__name__} cannot be called")
    component: Callable[..., Any] = found
    return component


def _import(field: str, place: str, module: str) -> ModuleType:
    try:
        return _run(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and _is_part(error.name, module):
            raise UserError(
                f"{field}: {place}: no module named {error.name!r} (install its "
                "package, or put its folder on PYTHONPATH, on every host)"
            ) from None
        what = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{field}: {place}: importing {module} failed: {what}"
        ) from error


def _run(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except RuntimeError as error:  # torchvision, or what imports it, beside a CPU torch
        if "operator torchvision::" not in str(error):
            raise
    importlib.import_module("dathvd.torchvision_shim")
    return importlib.import_module(module)


def _is_part(missing: str | None, module: str) -> bool:
    """Whether the missing module is that one, or a package that it would lie in."""
    return missing is not None and f"{module}.".startswith(f"{missing}.")
