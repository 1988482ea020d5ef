"""Options that several subcommands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

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
convergence_options = _configured("convergence, a small smooth network on digits")
"""The same for the benchmark of convergence."""


weights_option: Decorator = click.option(
    "--weights",
    default="raw",
    show_default=True,
    metavar="raw|ema|FILE",
    help="The run's own, or their average (of several the best one, or by its name, "
    "such as ema-0.99 or swa); with --model a file of weights.",
)
"""Add ``--weights``."""
checkpoint_option: Decorator = click.option(
    "--checkpoint",
    type=click.Choice(["last", "best"]),
    default="last",
    show_default=True,
    help="The newest checkpoint of RUN, or the best (train.select).",
)
"""Add ``--checkpoint``."""
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


def foreign_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--model``, ``--data`` and ``--set``: a network that is no run's."""
    function = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="FIELD=VALUE",
        help="With --model: a field, such as data.root=DIR. May be repeated.",
    )(function)
    function = click.option(
        "--data",
        metavar="NAME|FILE",
        help="With --model: a data set, such as cifar10, or a configuration whose data "
        "and evaluation are taken.",
    )(function)
    return click.option(
        "--model",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="In place of RUN: what makes the network, from images in [0, 1] to "
        "logits. Needs --data and --trust.",
    )(function)


def judged_network(
    run: str | None,
    model: str | None,
    data: str | None,
    weights: str,
    overrides: tuple[str, ...],
    trust: bool,
) -> tuple[str, str, Any]:
    """What a command works on: its name, which weights, and a foreign one's settings.

    Returns:
        The run or the function's place; the run's weights; the configuration of a
        network that is no run's, else None.
    """
    if (run is None) == (model is None):
        raise click.UsageError("name either RUN or --model PACKAGE.MODULE:FUNCTION")
    if model is None:
        assert run is not None
        if data is not None or overrides:
            raise click.UsageError("--data and --set belong to --model")
        if weights not in ("raw", "ema", "swa") and not weights.startswith("ema-"):
            raise click.UsageError(
                f"--weights {weights}: a run has raw and ema ones; a file of weights "
                "needs --model"
            )
        return run, weights, None
    chosen = click.get_current_context().get_parameter_source("checkpoint")
    if chosen not in (None, ParameterSource.DEFAULT):
        raise click.UsageError("--checkpoint belongs to RUN; --model has --weights")
    if data is None:
        raise click.UsageError("--model needs --data, a data set or a configuration")
    from dathvd.foreign import foreign_config

    file = None if weights == "raw" else weights
    return model, "raw", foreign_config(model, data, file, overrides, trust=trust)
