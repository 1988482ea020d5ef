"""``dathvd benchmark-methods``: what do training methods bring on one data set?"""

from __future__ import annotations

import click

from dathvd.commands.options import budget_options, study_options


@click.command("benchmark-methods")
@budget_options
@click.option("--data", metavar="DIR", help="Folder with train/CLASS/*, test/CLASS/*.")
@click.option(
    "--methods",
    metavar="NAMES",
    help="Of AT, FGSM-RS, TRADES, pre-trained, which have all labels, and of "
    "labelled-share, pseudo-labels, rotation-share, contrastive-share (all).",
)
@click.option(
    "--labelled",
    metavar="SHARE,…",
    default="0.1",
    show_default=True,
    help="Shares of images that keep their labels in the methods named so, above 0 "
    "and below 1; several give a picture, DIR/methods.png.",
)
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Test images of the clean and PGD-50 accuracy.",
)
@click.option(
    "--autoattack-samples",
    type=click.IntRange(0),
    default=250,
    show_default=True,
    help="Test images of AutoAttack; 0 leaves it out.",
)
@study_options
def command(
    config_file: str | None,
    overrides: tuple[str, ...],
    data: str | None,
    methods: str | None,
    seeds: str,
    labelled: str,
    samples: int,
    autoattack_samples: int,
    out: str,
) -> None:
    """Train and judge methods; the table is printed and kept as DIR/methods.json.

    The same command again goes on where it was interrupted.

    \b
    DATHVD_CIFAR10_JPEG=DIR horovodrun -np 2 dathvd benchmark-methods --out runs/methods
    dathvd benchmark-methods --config digits --autoattack-samples 0 \\
        --methods AT,labelled-share,pseudo-labels --labelled 0.02,0.05,0.1 \\
        --out runs/labels
    horovodrun -np 8 dathvd benchmark-methods --out runs/paper \\
        --config cifar10/paper_dat_pgd --data DIR    (for GPUs)
    """
    from pathlib import Path

    from dathvd.benchmark.accuracy.method_table import methods_table

    methods_table(
        config_file,
        overrides,
        data,
        methods,
        seeds,
        labelled,
        samples,
        autoattack_samples,
        Path(out),
    )
