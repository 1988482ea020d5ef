"""Options that several subcommands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _configured(default: str) -> Decorator:
    def add(function: Callable[..., Any]) -> Callable[..., Any]:
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
            metavar="FILE|NAME",
            help="A YAML file, or a configuration that comes along, such as "
            f"cifar10/fast; without it, {default}.",
        )(function)

    return add


config_options = _configured("the defaults (scikit-learn's digits)")
"""Add ``--config FILE`` and ``--set section.field=value``."""
PAPER_STEP = "cifar10/paper_dat_pgd"
"""The configuration of the paper's step: PreActResNet-18 under PGD-10."""
paper_step_options = _configured(f"{PAPER_STEP}, the paper's step")
"""The same for benchmarks of a step."""
budget_options = _configured("cifar10/cpu_budget, a small network")
"""The same for benchmarks of accuracy on CIFAR-10."""


weights_option: Decorator = click.option(
    "--weights",
    type=click.Choice(["raw", "ema"]),
    default="raw",
    show_default=True,
    help="The last step's, or their moving average (train.ema_decay).",
)
"""Add ``--weights``."""
trust_option: Decorator = click.option(
    "--trust",
    is_flag=True,
    help="Import components outside of dathvd that RUN names (package.module:name); "
    "this runs their code.",
)
"""Add ``--trust``."""


def study_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--seeds`` and ``--out``."""
    function = click.option(
        "--out", required=True, metavar="DIR", help="Where the runs are kept."
    )(function)
    return click.option(
        "--seeds", default="0,1,2", show_default=True, help="Seeds of the runs."
    )(function)
