"""What a component can be called with, and whether a user's options are of that."""

from __future__ import annotations

import functools
import inspect
import json
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from dathvd.errors import UserError, nearest

Component = Callable[..., Any]


@functools.lru_cache(maxsize=None)
def signature_of(component: Component) -> Signature:
    """The signature of a component, read once: annotations are slow to evaluate.

    Raises:
        ValueError: as ``Signature``.
    """
    return Signature(component)


class Signature:
    """The parameters of a component that can be given by name.

    Args:
        component: a class or a function.

    Raises:
        ValueError: it has no signature, or a parameter without a name.
    """

    def __init__(self, component: Component) -> None:
        try:
            found = inspect.signature(component).parameters.values()
        except TypeError as error:
            raise ValueError(str(error)) from None
        if any(each.kind is each.POSITIONAL_ONLY for each in found):
            raise ValueError("a parameter has no name")
        named = [
            each
            for each in found
            if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        ]
        self.names = [each.name for each in named]
        self.needed = [each.name for each in named if each.default is each.empty]
        self.takes_any = any(each.kind is each.VAR_KEYWORD for each in found)
        """Whether it ends with ``**``: then any option goes."""
        self._types = _types(component)

    def check_options(
        self, options: Mapping[str, Any], given: Collection[str], section: str
    ) -> dict[str, Any]:
        """The options as the parameters' annotations want them.

        Args:
            options: JSON values by name.
            given: parameters that do not get an option but a value of the program's.
            section: of the configuration, with which errors begin.

        Raises:
            UserError: one is unknown, missing or of another type.
        """
        own = [name for name in self.names if name not in given]
        for name in options:
            if name in own or (self.takes_any and name not in self.names):
                continue
            if name in given:
                raise UserError(
                    f"{section}.options.{name}: {name!r} is no option but given from "
                    f"{section}.{name}, or by dathvd itself; leave it out here"
                )
            hint = nearest(name, own) if own else "(there are none)"
            raise UserError(f"{section}.options: unknown option {name!r} {hint}")
        for name in self.needed:
            if name in own and name not in options:
                raise UserError(
                    f"{section}.options: {name!r} is needed: set "
                    f"{section}.options.{name} (given by dathvd itself: "
                    f"{', '.join(given)})"
                )
        return {
            name: _checked(
                value, self._types.get(name, Any), f"{section}.options.{name}"
            )
            for name, value in options.items()
        }


def _types(component: Component) -> dict[str, Any]:
    """Parameter to type; empty where an annotation cannot be evaluated."""
    kind = isinstance(component, type)
    called = getattr(component, "__init__") if kind else component  # noqa: B009
    try:
        return typing.get_type_hints(called, include_extras=True)
    except Exception:  # noqa: B902 (an annotation may raise anything)
        return {}


def _checked(value: Any, annotation: Any, where: str) -> Any:
    """An option as its parameter's annotation wants it; a list may become a tuple."""
    # imported where it is needed: the launcher has tables too, and starts without it
    from pydantic import TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    except PydanticUserError:  # no JSON value is of such a type: the component decides
        return value
    try:
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"]
        message = message[:1].lower() + message[1:]
        raise UserError(f"{where}: {message}, got {value!r}") from None
