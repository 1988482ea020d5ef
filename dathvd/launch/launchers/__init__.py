"""The programs that start ranks, and which of them does."""

from __future__ import annotations

from collections.abc import Mapping

from dathvd.components import LAUNCHERS as _LAUNCHERS
from dathvd.errors import UserError, choose
from dathvd.launch.launchers.launcher import Launcher
from dathvd.launch.options import LaunchOptions

__all__ = ["LAUNCHERS", "Launcher", "choose_launcher", "installed_launchers"]

LAUNCHERS: Mapping[str, Launcher] = _LAUNCHERS
"""The launchers by name, the preferred ones first; their places are in
``dathvd.components``."""


def installed_launchers() -> dict[str, str]:
    """The path of every launcher that is installed on this host, by its name."""
    found = {name: launcher.find() for name, launcher in LAUNCHERS.items()}
    return {name: path for name, path in found.items() if path is not None}


def choose_launcher(options: LaunchOptions, installed: Mapping[str, str]) -> str:
    """The name of the launcher that starts the ranks.

    Args:
        options: which launcher and controller are asked for.
        installed: the launchers that are there.

    Raises:
        UserError: there is none, or it cannot do so.
    """
    over = options.controller
    able = [
        name for name, launcher in LAUNCHERS.items() if over in launcher.controllers
    ]
    if options.launcher is not None:
        choose("--launcher", options.launcher, LAUNCHERS)
        if options.launcher not in installed:
            raise UserError(f"--launcher {options.launcher}: it is not installed here")
        if options.launcher not in able:
            raise UserError(
                f"--launcher {options.launcher}: cannot start ranks over {over} "
                f"(choices: {', '.join(able)})"
            )
        return options.launcher
    for name in able:
        if name in installed:
            return name
    if not installed:
        raise UserError(f"none of {', '.join(LAUNCHERS)} is installed here")
    raise UserError(
        f"--{over} needs {' or '.join(able)}, which is not installed "
        f"({', '.join(installed)} is)"
    )
