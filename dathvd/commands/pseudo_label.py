"""``dathvd pseudo-label``: labels for images that have none."""

from __future__ import annotations

from typing import Literal

import click

from dathvd.commands.options import (
    checkpoint_option,
    foreign_options,
    judged_network,
    trust_option,
    weights_option,
)


@click.command("pseudo-label")
@click.argument("places", metavar="[RUN] IMAGES", nargs=-1, required=True)
@foreign_options
@click.option("--output", required=True, metavar="FILE.npz", help="The labelled file.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Images at once.",
)
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Leave out images whose likeliest class is less probable.",
)
@weights_option
@checkpoint_option
@trust_option
def command(
    places: tuple[str, ...],
    model: str | None,
    data: str | None,
    overrides: tuple[str, ...],
    output: str,
    batch_size: int,
    min_confidence: float,
    weights: str,
    checkpoint: Literal["last", "best"],
    trust: bool,
) -> None:
    """Label IMAGES (a folder of image files, or .npy, .npz) with the network of RUN.

    \b
    dathvd pseudo-label runs/teacher unlabelled/ --output extra.npz
    dathvd train --set data.extra=extra.npz --set data.extra_ratio=0.5
    """
    from pathlib import Path

    from dathvd import collector

    with collector.paused():
        from dathvd.pseudo_labels import pseudo_label
        from dathvd.runtime import guard, start

    *runs, images = places
    if len(runs) > 1:
        raise click.UsageError(f"expected RUN and IMAGES, got {len(places)} arguments")
    name, which, foreign = judged_network(
        runs[0] if runs else None, model, data, weights, overrides, trust
    )
    runtime = start()
    with guard(runtime):
        pseudo_label(
            name,
            Path(images),
            Path(output),
            runtime,
            batch_size=batch_size,
            min_confidence=min_confidence,
            weights=which,
            foreign=foreign,
            which=checkpoint,
            trust=trust,
        )
