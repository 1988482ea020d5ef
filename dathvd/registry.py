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
        offers: what the program gives to a component beside the section, by the names
            of its parameters.
    """

    def __init__(
        self,
        section: str,
        product: str,
        places: dict[str, str],
        offers: tuple[str, ...] = (),
    ) -> None:
        self.section = section
        self.places = places
        self.offers = offers
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
            offers: the values of this registry's ``offers``.

        Raises:
            UserError: it cannot be imported or called so, or makes something else.
        """
        assert set(offers) == set(self.offers), offers
        component, options = self._prepare(choice)
        given = {**self._given(choice), **offers}
        named = _parameters(component)
        arguments = {name: given[name] for name in named if name in given}
        made = component(**arguments, **options)
        product = _attribute(self._product)
        if not isinstance(made, product):
            raise UserError(
                f"{self.section}.name: {choice.name} gave {type(made).__name__}, "
                f"expected {product.__name__} of {product.__module__}"
            )
        return made

    def check(self, choice: Choice) -> None:
        """Import the chosen component and check its options, without calling it.

        Raises:
            UserError: it cannot be imported, or not be called so.
        """
        self._prepare(choice)

    def takes(self, name: str) -> set[str]:
        """The names of a registered component's parameters."""
        component: Any = self[name]
        return set(_parameters(component))

    def _given(self, choice: Choice) -> dict[str, Any]:
        """What parameters of these names get; of ``offers`` the names alone."""
        assert isinstance(choice, BaseModel)
        fields = {name: getattr(choice, name) for name in type(choice).model_fields}
        own = {} if is_foreign(choice.name) else fields
        return {**own, "config": choice, **dict.fromkeys(self.offers)}

    def _giver(self, name: str) -> str:
        given = name in ("config", *self.offers)
        return "dathvd itself" if given else f"{self.section}.{name}"

    def _prepare(self, choice: Choice) -> tuple[Callable[..., Any], dict[str, Any]]:
        """The chosen component and its checked options."""
        component: Any = self.resolve(choice.name)
        given = self._given(choice)
        try:
            named = _parameters(component)
        except (TypeError, ValueError):
            raise UserError(
                f"{self.section}.name: {choice.name} cannot be called by name"
            ) from None
        own = {name: named[name] for name in named if name not in given}
        self._refuse_unknown(choice, own, given)
        for name, parameter in own.items():
            needed = parameter.default is parameter.empty
            if needed and parameter.kind is not parameter.VAR_KEYWORD:
                if name not in choice.options:
                    raise UserError(
                        f"{self.section}.name: {choice.name} needs {name!r}: set "
                        f"{self.section}.options.{name} (dathvd itself gives "
                        f"{', '.join(['config', *self.offers])})"
                    )
        hints = _annotations(component)
        return component, {
            name: _checked(
                value, hints.get(name, Any), f"{self.section}.options.{name}"
            )
            for name, value in choice.options.items()
        }

    def _refuse_unknown(
        self,
        choice: Choice,
        own: Mapping[str, inspect.Parameter],
        given: Mapping[str, object],
    ) -> None:
        kinds = [parameter.kind for parameter in own.values()]
        anything = inspect.Parameter.VAR_KEYWORD in kinds
        names = [name for name in own if own[name].kind is not own[name].VAR_KEYWORD]
        for name in choice.options:
            if name in given:
                raise UserError(
                    f"{self.section}.options.{name}: {choice.name} gets it from "
                    f"{self._giver(name)}; leave it out here"
                )
            if name not in names and not anything:
                hint = nearest(name, names) if names else "(it has none)"
                raise UserError(
                    f"{self.section}.options: {choice.name} has no option {name!r} "
                    f"{hint}"
                )


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


def _parameters(component: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters that can be given by name, and ``**`` for any other.

    Raises:
        TypeError, ValueError: it has no signature, or a parameter without a name.
    """
    found = dict(inspect.signature(component).parameters)
    for parameter in found.values():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(parameter.name)
    return {
        name: parameter
        for name, parameter in found.items()
        if parameter.kind is not parameter.VAR_POSITIONAL
    }


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
