"""What a launcher is: a program that starts ranks on hosts."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dathvd.launch.options import Controller, LaunchOptions


@dataclass(frozen=True)
class Launcher:
    """A program that starts ranks, and its options.

    A rank learns its place from its environment, see ``dathvd.ranks``.
    """

    program: str
    """The program's name, looked for beside this Python and on PATH."""
    controllers: tuple[Controller, ...]
    """What the ranks that it starts can be coordinated over."""
    arguments: Callable[[LaunchOptions, Mapping[str, str]], list[str]]
    """From options and the ranks' environment to the program's arguments, which the
    ranks' command follows. Arguments can be read by all users of a host: they may hold
    names of environment variables, but no values."""

    def find(self) -> str | None:
        """The program's path; None where it is not installed."""
        beside = Path(sys.executable).with_name(self.program)
        return str(beside) if beside.exists() else shutil.which(self.program)
