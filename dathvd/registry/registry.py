"""The registry of one kind of component."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from dathvd.errors import UserError, choose, nearest
from dathvd.registry.places import PLACE, attribute, import_component
from dathvd.registry.signature import signature_of

T = TypeVar("T")


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


class Places(Mapping[str, T], Generic[T]):
    """A table from names to what they stand for, imported when it is asked for.

    Args:
        places: name to ``package.module:attribute``.
    """

    def __init__(self, places: dict[str, str]) -> None:
        self.places = places

    def __getitem__(self, name: str) -> T:
        found: T = attribute(self.places[name])
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


class Registry(Places[T]):
    """The components of one kind that a configuration can name.

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
        super().__init__(places)
        self.section = section
        self.offers = offers
        self._product = product

    def problem(self, name: str) -> str | None:
        """What is wrong with a name, in words, or None; imports nothing."""
        if is_foreign(name):
            well_formed = PLACE.fullmatch(name) is not None
            return None if well_formed else "expected package.module:attribute"
        return None if name in self.places else f"unknown {nearest(name, self.places)}"

    def takes(self, name: str) -> set[str]:
        """The names of a registered component's parameters."""
        component: Any = self[name]
        return set(signature_of(component).names)

    def check(self, choice: Choice) -> None:
        """Import the chosen component and check its options, without calling it.

        Raises:
            UserError: it cannot be imported, or not be called so.
        """
        self._prepare(choice)

    def wants(self, choice: Choice, offer: str) -> bool:
        """Whether the chosen component has a parameter for one of ``offers``.

        Raises:
            UserError: it cannot be imported, or not be called so.
        """
        assert offer in self.offers, offer
        return offer in self._prepare(choice)[1]

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
        component, names, options = self._prepare(choice)
        given = {**_given(choice), **offers}
        arguments = {name: given[name] for name in names if name in given}
        made = component(**arguments, **options)
        product = attribute(self._product)
        if not isinstance(made, product):
            raise UserError(
                f"{self.section}.name: {choice.name} gave {type(made).__name__}, "
                f"expected {product.__module__}.{product.__name__}"
            )
        return made

    def _prepare(
        self, choice: Choice
    ) -> tuple[Callable[..., Any], list[str], dict[str, Any]]:
        """The chosen component, the names of its parameters, its checked options."""
        field = f"{self.section}.name"
        component: Any
        if is_foreign(choice.name):
            component = import_component(field, choice.name)
        else:
            component = attribute(choose(field, choice.name, self.places))
        try:
            signature = signature_of(component)
        except ValueError as error:
            raise UserError(
                f"{field}: {choice.name} cannot be called by name: {error}"
            ) from None
        given = [*self.offers, *_given(choice)]
        options = signature.check_options(choice.options, given, self.section)
        return component, signature.names, options


def _given(choice: Choice) -> dict[str, Any]:
    """What parameters get from the section, by their names.

    A component outside of dathvd gets the section as a whole alone: that a parameter
    of its own has the name of a field is chance.
    """
    if is_foreign(choice.name):
        return {"config": choice}
    fields: Iterable[str] = getattr(type(choice), "model_fields")
    return {"config": choice, **{name: getattr(choice, name) for name in fields}}
