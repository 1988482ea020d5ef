"""``dathvd benchmark-convergence``: does training near a stationary point?"""

from __future__ import annotations

import click

from dathvd.commands.options import convergence_options


@click.command("benchmark-convergence")
@convergence_options
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=800,
    show_default=True,
    help="Steps of every run but the shorter ones, whatever the batch.",
)
@click.option(
    "--every",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Steps between estimates of |grad F|².",
)
@click.option(
    "--codecs",
    default="int8,sign,topk,paper",
    show_default=True,
    help="Beside the configuration's.",
)
@click.option(
    "--overlap",
    "overlaps",
    default="attack",
    show_default=True,
    help="Beside the configuration's.",
)
@click.option(
    "--inner-steps",
    default="1,2,5,10",
    show_default=True,
    help="Steps of the attack that is trained on.",
)
@click.option(
    "--batch-sizes",
    default="16,256",
    show_default=True,
    help="Beside the configuration's, at its learning rate.",
)
@click.option(
    "--horizons",
    default="2,4,8",
    show_default=True,
    help="Shorter runs of 1/2, 1/4, … of the steps, whose rate is as many square "
    "roots higher: what the theorem speaks of.",
)
@click.option(
    "--vary",
    "texts",
    multiple=True,
    metavar="'NAME: FIELD=VALUE …'",
    help="Another variant, such as 'lamb: optimizer.name=lamb'. May be repeated.",
)
@click.option("--seeds", default="0,1", show_default=True, help="Seeds of the runs.")
@click.option("--out", required=True, metavar="DIR", help="Where the runs are kept.")
def command(
    config_file: str | None,
    overrides: tuple[str, ...],
    steps: int,
    every: int,
    codecs: str,
    overlaps: str,
    inner_steps: str,
    batch_sizes: str,
    horizons: str,
    texts: tuple[str, ...],
    seeds: str,
    out: str,
) -> None:
    """Measure how fast the objective's gradient vanishes, beside the theorem.

    One thing at a time differs from the configuration. The table, and what the theorem
    says of it, are printed; DIR/convergence.json and .png hold the curves. The same
    command again goes on where it was interrupted.

    \b
    dathvd benchmark-convergence --out runs/convergence
    horovodrun -np 2 dathvd benchmark-convergence --out runs/two
    """
    from pathlib import Path

    from dathvd.benchmark.convergence.report import convergence_table

    convergence_table(
        config_file,
        overrides,
        steps,
        every,
        codecs,
        overlaps,
        inner_steps,
        batch_sizes,
        horizons,
        texts,
        seeds,
        Path(out),
    )
