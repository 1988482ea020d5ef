"""``dathvd certify``: radii within which predictions are certain."""

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


@click.command("certify")
@click.argument("run", metavar="RUN", required=False)
@foreign_options
@click.option(
    "--sigma",
    type=click.FloatRange(0, min_open=True),
    help="Standard deviation of the noise (the run's own, data.noise).",
)
@click.option(
    "--num-guess",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Draws that choose the class.",
)
@click.option(
    "--num-draws",
    type=click.IntRange(1),
    default=100_000,
    show_default=True,
    help="Draws that bound its probability.",
)
@click.option(
    "--failure",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.001,
    show_default=True,
    help="Probability, at most, that a certificate is wrong.",
)
@click.option(
    "--every",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Take each so-many-th test image.",
)
@click.option("--max-samples", type=int, help="The first so many of them.")
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Draws at once.",
)
@weights_option
@checkpoint_option
@click.option("--seed", type=int, help="Seed of the draws (the run's own).")
@trust_option
@click.option(
    "--output",
    metavar="FOLDER",
    help="Keep every image's certificate; the same command goes on from there.",
)
@click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON.")
def command(
    run: str | None,
    model: str | None,
    data: str | None,
    overrides: tuple[str, ...],
    sigma: float | None,
    num_guess: int,
    num_draws: int,
    failure: float,
    every: int,
    max_samples: int | None,
    batch_size: int,
    weights: str,
    checkpoint: Literal["last", "best"],
    seed: int | None,
    trust: bool,
    output: str | None,
    json_file: str | None,
) -> None:
    """Certify RUN's predictions under noise (randomised smoothing, Cohen et al. 2019).

    The smoothed network answers with what RUN says of most noisy images; the radius is
    Euclidean, in pixel units of [0, 1].

    \b
    dathvd train --config cifar10/smoothing --run-dir runs/noisy
    mpirun -np 4 dathvd certify runs/noisy --every 20 --output certificates
    """
    from pathlib import Path

    from dathvd import collector

    with collector.paused():
        from dathvd.evaluation import Request
        from dathvd.evaluation.smoothing import CertifyRequest, certify_run
        from dathvd.evaluation.smoothing.certificate import Smoothing
        from dathvd.runtime import guard, start

    name, which, foreign = judged_network(run, model, data, weights, overrides, trust)
    request = CertifyRequest(
        Smoothing(sigma or 0.0, num_guess, num_draws, failure, batch_size),
        every,
        Request(
            max_samples=max_samples,
            seed=seed,
            weights=which,
            which=checkpoint,
            foreign=foreign,
            trust=trust,
            output=Path(output) if output else None,
            json_file=Path(json_file) if json_file else None,
        ),
    )
    runtime = start()
    with guard(runtime):
        certify_run(name, request, runtime)
