"""The form of a submission: its fields come from the configuration's schema."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from dathvd.config import Config, explain
from dathvd.errors import UserError
from dathvd.lists import integers
from dathvd.service.server.api import Submission

_FIELDS_OF_OPTIONS = {
    "-np": "num_proc",
    "--grid": "grid",
    "--seeds": "seeds",
    "--on": "engine",
    "--after": "after",
}
"""Which field an error that begins with an option of ``dathvd submit`` belongs to."""


def changed_fields(form: Mapping[str, str]) -> dict[str, str]:
    """What the form changes of the defaults, by the configuration's names."""
    return {
        name.removeprefix("field."): value.strip()
        for name, value in form.items()
        if name.startswith("field.") and value.strip()
    }


def submission_of(form: Mapping[str, str]) -> Submission:
    """What the form says.

    Raises:
        UserError: a field cannot be read.
    """
    engine = form.get("engine", "local")
    mark = f"option.{engine}."
    ranks = form.get("num_proc", "").strip() or "1"
    if not ranks.isdecimal() or int(ranks) < 1:
        raise UserError(f"-np: expected a whole number of at least 1, got {ranks!r}")
    try:
        return Submission(
            overrides=[f"{k}={v}" for k, v in changed_fields(form).items()],
            engine=engine,
            num_proc=int(ranks),
            options={
                name.removeprefix(mark): value.strip()
                for name, value in form.items()
                if name.startswith(mark) and value.strip()
            },
            grid=form.get("grid", "").split(),
            seeds=list(integers("--seeds", form.get("seeds"))),
            group=form.get("group", "").strip() or None,
            after=form.get("after", "").strip() or None,
        )
    except ValidationError as error:
        raise UserError(f"--{explain(error)}") from None


def field_of(error: str) -> str:
    """The name of the field that a message is about; empty where it is none's.

    ``attack.epsilon: …`` is a field of the configuration, ``-np 3: …`` an option.
    """
    first = error.split()[0].rstrip(":") if error else ""
    if first in _FIELDS_OF_OPTIONS:
        return _FIELDS_OF_OPTIONS[first]
    names = fields_by_name()
    if first in names:
        return first
    return next((name for name in names if f"{name}:" in error), "")


def fields_by_name() -> dict[str, dict[str, Any]]:
    """The form's fields by name, such as ``attack.epsilon``."""
    return {
        field["name"]: field
        for section in form_sections()
        for field in section["fields"]
    }


@functools.cache
def form_sections() -> list[dict[str, Any]]:
    """The sections of the configuration's schema as sections of a form."""
    schema = Config.model_json_schema()
    defaults = Config().model_dump(mode="json")
    sections = []
    own = []
    for name, entry in schema["properties"].items():
        section = _resolve(schema, entry)
        if "properties" not in section:
            own.append(_field(name, section, defaults[name]))
            continue
        fields = _fields(schema, section, f"{name}.", defaults[name])
        sections.append(
            {"name": name, "help": section.get("description", ""), "fields": fields}
        )
    return [{"name": "run", "help": "", "fields": own}, *sections]


def _fields(
    schema: dict[str, Any], section: dict[str, Any], prefix: str, defaults: Any
) -> list[dict[str, Any]]:
    found = []
    for name, entry in section["properties"].items():
        inner = _resolve(schema, entry)
        default = defaults.get(name) if isinstance(defaults, dict) else None
        if "properties" in inner:
            found += _fields(schema, inner, f"{prefix}{name}.", default)
        else:
            found.append(_field(prefix + name, {**inner, **entry}, default))
    return found


def _field(name: str, entry: dict[str, Any], default: Any) -> dict[str, Any]:
    choices = entry.get("enum")
    for option in entry.get("anyOf", []):
        choices = choices or option.get("enum")
    text = default if isinstance(default, str) else json.dumps(default)
    return {
        "name": name,
        "help": " ".join(entry.get("description", "").split()),
        "choices": choices,
        "default": "" if default is None else text,
    }


def _resolve(schema: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    for part in (entry, *entry.get("allOf", []), *entry.get("anyOf", [])):
        if "$ref" in part:
            found: dict[str, Any] = schema["$defs"][part["$ref"].rpartition("/")[2]]
            return found
    return entry
