"""``dathvd benchmark-batches``: who keeps robust accuracy at large batches?"""

from __future__ import annotations

import click

from dathvd.commands.options import budget_options, study_options


@click.command("benchmark-batches")
@budget_options
@click.option(
    "--base",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="The batch size whose multiples are compared.",
)
@click.option(
    "--multiples",
    default="1,16,64",
    show_default=True,
    help="Of the base; the first one is the reference.",
)
@click.option(
    "--lamb-lr", default=0.007, show_default=True, help="LAMB's rate at the base."
)
@click.option("--sgd-lr", default=0.05, show_default=True, help="SGD's rate there.")
@study_options
def command(
    config_file: str | None,
    overrides: tuple[str, ...],
    base: int,
    multiples: str,
    seeds: str,
    lamb_lr: float,
    sgd_lr: float,
    out: str,
) -> None:
    """Compare LAMB with SGD over batch sizes; table, DIR/large_batch.json and .png.

    The same command again goes on where it was interrupted.

    \b
    DATHVD_CIFAR10_JPEG=DIR horovodrun -np 2 dathvd benchmark-batches --out runs/large
    """
    from pathlib import Path

    from dathvd.benchmark.accuracy.large_batch import batches_table

    rates = {"lamb": lamb_lr, "sgd": sgd_lr}
    batches_table(config_file, overrides, base, multiples, seeds, rates, Path(out))
