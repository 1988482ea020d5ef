"""Components by name: where each is, imported on first use, called by its signature.

A registry is a dictionary from names to places, ``"package.module:attribute"``. It
imports nothing before an entry is asked for, so that a configuration can be checked
without torch. A name with a colon is a place itself: a component of a user's own
package. Such a name is imported by :meth:`Registry.resolve` alone, and never by
checking or reading a configuration.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from dathvd.errors import UserError, nearest

T = TypeVar("T")

_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_PLACE = re.compile(rf"{_NAME}:{_NAME}")


class Choice(Protocol):
    """The section of a configuration that names a component."""

    @property
    def name(self) -> str:
        """A registered name, or ``package.module:attribute``."""

    @property
    def options(self) -> Mapping[str, Any]:
        """The component's own options, as JSON values."""


def is_foreign(name: str) -> bool:
    """Whether a name stands for a component outside of dathvd."""
    return ":" in name


class Registry(Mapping[str, T], Generic[T]):
    """The components of one kind; an entry is imported when it is asked for.

    Args:
        section: of the configuration, such as ``model``; errors begin with it.
        product: the place of the class that every component gives an instance of.
        places: name to ``package.module:attribute``.
    """

    def __init__(self, section: str, product: str, places: dict[str, str]) -> None:
        self.section = section
        self.places = places
        self._product = product

    def __getitem__(self, name: str) -> T:
        found: T = _attribute(self.places[name])
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def problem(self, name: str) -> str | None:
        """What is wrong with a name, in words, or None; imports nothing."""
        if is_foreign(name):
            well_formed = _PLACE.fullmatch(name) is not None
            return None if well_formed else "expected package.module:attribute"
        return None if name in self.places else f"unknown {nearest(name, self.places)}"

    def resolve(self, name: str) -> T:
        """The component of that name, which may lie in a user's own package.

        Raises:
            UserError: no component has that name, or its module cannot be imported.
        """
        problem = self.problem(name)
        if problem is not None:
            raise UserError(f"{self.section}.name: {problem}, got {name!r}")
        if not is_foreign(name):
            return self[name]
        try:
            found: T = _import(name)
        except _NotFound as error:
            raise UserError(f"{self.section}.name: {error}") from None
        return found

    def build(self, choice: Choice, **offers: Any) -> Any:
        """What the chosen component makes, called with what its parameters name.

        A parameter gets, by its name: one of ``offers``; ``config``, which is the whole
        section; where the component is dathvd's own, a field of the section; else one
        of ``options``, checked against the parameter's annotation.

        Args:
            choice: the section with the component's name and its options.
            offers: what the program gives, such as ``num_classes`` to a network.

        Raises:
            UserError: it cannot be imported or called so, or makes something else.
        """
        component, own = self.resolve(choice.name), not is_foreign(choice.name)
        given = {**(_fields(choice) if own else {}), "config": choice, **offers}
        made = _call(component, given, choice, self.section)
        product = _attribute(self._product)
        if not isinstance(made, product):
            raise UserError(
                f"{self.section}.name: {choice.name} gave {type(made).__name__}, "
                f"expected {product.__name__} of {product.__module__}"
            )
        return made

    def takes(self, name: str) -> set[str]:
        """The names of a registered component's parameters."""
        return set(inspect.signature(self[name]).parameters)  # type: ignore[arg-type]


class _NotFound(Exception):
    """A place outside of dathvd that does not lead to a component; one line."""


def _attribute(place: str) -> Any:
    module, _, path = place.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _import(place: str) -> Any:
    """The attribute at a place outside of dathvd; importing runs that module's code."""
    module, _, path = place.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and _is_part(error.name, module):
            raise _NotFound(
                f"{place}: no module named {error.name!r} (install its package, or "
                "put its folder on PYTHONPATH, on every host)"
            ) from None
        what = f"{type(error).__name__}: {error}"
        raise _NotFound(f"{place}: importing {module} failed: {what}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, dir(found), n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise _NotFound(f"{place}: {module} has no attribute {part!r}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise _NotFound(f"{place}: a {type(found).__name__} cannot be called")
    return found


def _is_part(missing: str | None, module: str) -> bool:
    """Whether the missing module is that one, or a package that it would lie in."""
    return missing is not None and f"{module}.".startswith(f"{missing}.")


def _fields(choice: Choice) -> dict[str, Any]:
    assert isinstance(choice, BaseModel)
    return {name: getattr(choice, name) for name in type(choice).model_fields}


def _call(component: Any, given: dict[str, Any], choice: Choice, section: str) -> Any:
    """Call a component with what its parameters name of ``given``, and the options."""
    try:
        parameters = dict(inspect.signature(component).parameters)
    except (TypeError, ValueError):
        raise UserError(f"{section}.name: {choice.name} has no signature") from None
    rest = [p.name for p in parameters.values() if p.kind is p.VAR_KEYWORD]
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    arguments = {name: given[name] for name in named if name in given}
    own = {name: named[name] for name in named if name not in given}
    _refuse_unknown(choice, own, given, section, anything=bool(rest))
    for name, parameter in own.items():
        if parameter.default is parameter.empty and name not in choice.options:
            offered = ", ".join(sorted(given))
            raise UserError(
                f"{section}.name: {choice.name} needs {name!r}: set "
                f"{section}.options.{name}, or name what dathvd gives ({offered})"
            )
    hints = _annotations(component)
    for name, value in choice.options.items():
        where = f"{section}.options.{name}"
        arguments[name] = _checked(value, hints.get(name, Any), where)
    return component(**arguments)


def _refuse_unknown(
    choice: Choice,
    own: Mapping[str, object],
    given: Mapping[str, object],
    section: str,
    *,
    anything: bool,
) -> None:
    for name in choice.options:
        if name in given:
            raise UserError(
                f"{section}.options.{name}: {choice.name} gets {name!r} from "
                f"{section}.{name}, or from dathvd; leave it out here"
            )
        if name not in own and not anything:
            hint = nearest(name, own) if own else "(it has no options)"
            raise UserError(
                f"{section}.options: {choice.name} has no option {name!r} {hint}"
            )


def _annotations(component: Callable[..., Any]) -> dict[str, Any]:
    """Parameter to type; empty where an annotation cannot be evaluated."""
    called = (
        getattr(component, "__init__") if isinstance(component, type) else component
    )
    try:
        return typing.get_type_hints(called, include_extras=True)
    except Exception:  # noqa: B902 (an annotation may raise anything)
        return {}


def _checked(value: Any, annotation: Any, where: str) -> Any:
    """An option as its parameter's annotation wants it; a list may become a tuple."""
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
