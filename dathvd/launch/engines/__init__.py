"""The engines that start ranks, and which of them does."""

from __future__ import annotations

from collections.abc import Mapping

from dathvd.components import ENGINES as _ENGINES
from dathvd.errors import UserError, choose
from dathvd.launch.engines.engine import Engine
from dathvd.launch.options import LaunchOptions

__all__ = ["ENGINES", "Engine", "choose_engine", "installed_engines"]

ENGINES: Mapping[str, Engine] = _ENGINES
"""The engines by name, the preferred ones first; their places are in
``dathvd.components``."""


def installed_engines() -> dict[str, str]:
    """The path of every engine that is installed on this host, by its name."""
    found = {name: engine.find() for name, engine in ENGINES.items()}
    return {name: path for name, path in found.items() if path is not None}


def choose_engine(options: LaunchOptions, installed: Mapping[str, str]) -> str:
    """The name of the engine that starts the ranks.

    Args:
        options: which engine and controller are asked for.
        installed: the engines that are there.

    Raises:
        UserError: there is none, or it cannot do so.
    """
    over = options.controller
    able = [name for name, engine in ENGINES.items() if over in engine.controllers]
    if options.engine is not None:
        choose("--engine", options.engine, ENGINES)
        if options.engine not in installed:
            raise UserError(f"--engine {options.engine}: it is not installed here")
        if options.engine not in able:
            raise UserError(
                f"--engine {options.engine}: cannot start ranks over {over} "
                f"(choices: {', '.join(able)})"
            )
        return options.engine
    for name in able:
        if name in installed:
            return name
    if not installed:
        raise UserError(f"none of {', '.join(ENGINES)} is installed here")
    raise UserError(
        f"--{over} needs {' or '.join(able)}, which is not installed "
        f"({', '.join(installed)} is)"
    )
