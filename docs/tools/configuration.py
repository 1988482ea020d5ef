"""The page of all configuration fields, from the configuration's classes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from dathvd.components import REGISTRIES
from dathvd.config import Config
from dathvd.config.base import parse_fraction

INTRODUCTION = """\
# Configuration

A run is decided by one configuration: the defaults, changed by a YAML file
(`--config`), changed by `--set section.field=value`. Hosts and ranks are no part of it.
This page is generated from the classes in `dathvd/config`.

```bash
dathvd show-config --config configs/digits.yaml --set attack.epsilon=8/255
```

`show-config` prints every field as a run would use it. A YAML file names only what
differs from the defaults:

```yaml
attack:
  epsilon: 8/255
  num_steps: 10
train:
  batch_size: 256
```

An unknown key, a wrong type and a value out of range are refused before anything
starts, with one line and exit code 2. So are settings that do not fit together:

<!-- exits 2: train.overlap: attack has nothing to hide behind -->
```bash
dathvd show-config --set attack.name=none --set train.overlap=attack
```

The fields are listed below, by section. A section with a `name` names a component, by
its short name or by its place in a package of yours (see [extending](extending.md));
`options` are that component's own. `null` as a default means that the field is not set.
Fields marked *number or fraction* take text such as `8/255` too.

A run folder keeps its configuration, and a run goes on only under the same one. These
fields may change between a run and its continuation, as they do not change its result:

{free}
- all of `evaluation`
"""

_BOUNDS = {
    "minimum": "≥ {}",
    "ge": "≥ {}",
    "exclusiveMinimum": "> {}",
    "gt": "> {}",
    "maximum": "≤ {}",
    "le": "≤ {}",
    "exclusiveMaximum": "< {}",
    "lt": "< {}",
}
_TYPES = {
    "integer": "integer",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "object": "mapping",
}


def page() -> str:
    """The page as Markdown."""
    from dathvd.run_folder import _FREE

    free = "\n".join(f"- `{'.'.join(path)}`" for path in sorted(_FREE))
    parts = [INTRODUCTION.replace("{free}", free)]
    parts += [_section(path, section) for path, section in sections(Config)]
    return "\n".join(parts)


def sections(
    section: type[BaseModel], path: str = ""
) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section with its path, such as ``evaluation.attack``; outer ones first."""
    yield path, section
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from sections(inner, f"{path}.{name}".lstrip("."))


def _section(path: str, section: type[BaseModel]) -> str:
    title = f"## `{path}`" if path else "## Top level"
    lines = [title, "", _prose(section.__doc__ or ""), ""]
    lines += ["| field | type and range | default | meaning |", "|---|---|---|---|"]
    properties = section.model_json_schema()["properties"]
    fields = section.model_fields
    for name in sorted(fields, key=lambda name: (name != "name", name == "options")):
        if "$ref" not in properties[name]:
            lines.append(_row(path, name, fields[name], properties[name]))
    return "\n".join(lines) + "\n"


def _row(path: str, name: str, field: FieldInfo, schema: dict[str, Any]) -> str:
    kind = _kind(schema)
    if any(_takes_fractions(extra) for extra in field.metadata):
        kind = kind.replace("number", "number or fraction", 1)
    if name == "name" and kind == "text":
        kind = _components(path)
    default = json.dumps(schema.get("default"))
    cells = (f"`{name}`", kind, f"`{default}`", _prose(field.description or ""))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _components(path: str) -> str:
    """The registered components of a section, in words."""
    (registry,) = [r for r in REGISTRIES if r.section == path.rpartition(".")[2]]
    names = ", ".join(f"`{name}`" for name in registry)
    return f"{names} or `package.module:attribute`"


def _takes_fractions(extra: object) -> bool:
    return isinstance(extra, BeforeValidator) and extra.func is parse_fraction


def _kind(schema: dict[str, Any]) -> str:
    """A type and its range, in words."""
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if schema.get("type") == "array":
        return f"list of: {_kind(schema['items'])}"
    bounds = [
        text.format(schema[key]) for key, text in _BOUNDS.items() if key in schema
    ]
    return " ".join([_TYPES[schema["type"]], ", ".join(bounds)]).strip()


def _prose(docstring: str) -> str:
    """A docstring as one paragraph of Markdown."""
    return re.sub(r"``([^`]+)``", r"`\1`", " ".join(docstring.split()))
