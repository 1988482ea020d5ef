"""Options that several subcommands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def config_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--config FILE`` and ``--set section.field=value``."""
    function = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="FIELD=VALUE",
        help="Override a field, such as optimizer.lr=0.02. May be repeated.",
    )(function)
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        help="A YAML file; without it, the defaults (scikit-learn's digits).",
    )(function)
