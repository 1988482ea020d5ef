"""What every section of a configuration shares."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from dathvd.errors import nearest
from dathvd.registry import Registry


class Section(BaseModel):
    """A frozen, typed group of fields; unknown keys and wrong types are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class ComponentSection(Section):
    """A section that names a component: the fields are what several components share
    or the program reads; what belongs to one component alone lies in ``options``."""

    options: dict[str, JsonValue] = {}
    """The named component's own options: parameters of its maker that are no field of
    this section. They are checked when the component is made."""

    @model_serializer(mode="wrap")
    def _end_with_options(self, handler: SerializerFunctionWrapHandler) -> Any:
        """The fields, and the options where there are any."""
        tree = handler(self)
        options = tree.pop("options", None)
        return {**tree, "options": options} if options else tree


def named_in(registry: Registry[Any]) -> AfterValidator:
    """Checks that a text is a name of the registry, or of a component elsewhere."""

    def check(name: str) -> str:
        problem = registry.problem(name)
        if problem is not None:
            raise ValueError(problem)
        return name

    return AfterValidator(check)


def among(places: Mapping[str, Any]) -> AfterValidator:
    """Checks that a text, where there is one, is a name of those places."""

    def check(name: str | None) -> str | None:
        if name is not None and name not in places:
            raise ValueError(f"unknown {name!r} {nearest(name, places)}")
        return name

    return AfterValidator(check)


def parse_fraction(value: Any) -> Any:
    """``"8/255"`` as a float; anything else as it is."""
    if isinstance(value, str):
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError, OverflowError):
            return value
    return value


Pixel = Annotated[float, BeforeValidator(parse_fraction), Field(ge=0)]
"""A length in pixel units, images being in [0, 1]: a float or "8/255"."""


def as_tuple(value: Any) -> Any:
    """YAML's list as a tuple; anything else as it is."""
    return tuple(value) if isinstance(value, list) else value


FromList = BeforeValidator(as_tuple)
"""Lets a tuple field take a YAML list: ``Annotated[tuple[int, ...], FromList]``."""

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
