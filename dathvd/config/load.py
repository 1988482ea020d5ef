"""YAML and ``--set`` to a ``Config``; every error names the field and the remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from dathvd.config.root import Config
from dathvd.config.shipped import find_config
from dathvd.errors import UserError, nearest

# libyaml reads several times faster, and a PyYAML may have been built without it
_SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc, valid-type]
    """YAML 1.2 floats: PyYAML reads ``1e-3`` as a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_config(
    path: str | Path | None = None, overrides: Sequence[str] = ()
) -> Config:
    """The defaults, changed by a YAML file, changed by ``section.field=value``.

    Args:
        path: of a YAML file, or the name of a shipped configuration
            (``cifar10/fast``); ``None`` leaves the defaults.
        overrides: ``section.field=value``, the last one of a field wins.

    Raises:
        UserError: the file cannot be read, or a key or value is not valid.
    """
    tree = {} if path is None else _read(find_config(path))
    source = "defaults" if path is None else str(path)
    _forget_another_norms_ball(tree, overrides)
    for override in overrides:
        _apply(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"config ({source}): {explain(error)}") from None


def dump_config(config: Config) -> str:
    """The configuration as YAML, every field written out."""
    return yaml.safe_dump(
        config.model_dump(mode="json"), sort_keys=False, allow_unicode=True
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"config {path}: cannot be read: {reason}") from None
    try:
        tree = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "syntax error"
        raise UserError(f"config {path}: not valid YAML{where}: {problem}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"config {path}: expected a mapping of sections")
    return tree


def _forget_another_norms_ball(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Drop the file's radius of evaluation where training's norm is overridden.

    A radius is of the norm it was chosen for: the evaluation, which follows training's
    norm, then follows its radius too. A file that sets the evaluation's norm means it.
    """
    changed = any(each.partition("=")[0].strip() == "attack.norm" for each in overrides)
    section = tree.get("evaluation")
    judge = section.get("attack") if isinstance(section, dict) else None
    if changed and isinstance(judge, dict) and "norm" not in judge:
        for field in ("epsilon", "step_size"):
            judge.pop(field, None)


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}: expected section.field=value")
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: {text!r} is not valid YAML") from None
    *parents, leaf = key.strip().split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(f"--set {override}: {parent!r} is not a section")
        node = child
    node[leaf] = value


def explain(error: ValidationError) -> str:
    """The first problem in one line: field, problem, what was got."""
    problems = error.errors(include_url=False)
    first, place = problems[0], list(problems[0]["loc"])
    whole = place[:-1]
    if _is_union(whole):
        # the kind that is meant is the one as which the value was read furthest
        tried = [each for each in problems if each["loc"][: len(whole)] == (*whole,)]
        first = max(tried, key=lambda each: len(each["loc"]))
        place = [*whole, *first["loc"][len(whole) + 1 :]]
    field = ".".join(str(part) for part in place)
    if first["type"] == "extra_forbidden":
        return f"unknown key {field!r} {nearest(str(place[-1]), _keys(place[:-1]))}"
    if first["type"] in ("model_type", "model_attributes_type"):
        return f"{field}: expected a section, got {first['input']!r}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    got = f", got {first['input']!r}" if place else ""
    return f"{field}: {message}{got}" if place else message


def _is_union(place: Sequence[Any]) -> bool:
    """Whether the field at that place may have values of several kinds."""
    section: Any = Config
    for part in place:
        field = getattr(section, "model_fields", {}).get(part)
        section = field.annotation if field else None
    return get_origin(section) in (Union, UnionType)


def _keys(place: Sequence[Any]) -> list[str]:
    """The fields of the section at that place."""
    section: Any = Config
    for part in place:
        field = section.model_fields.get(part)
        section = field.annotation if field else None
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return []
    return list(section.model_fields)
