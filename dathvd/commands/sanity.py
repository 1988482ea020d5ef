"""``dathvd sanity``: is a run's robust accuracy real?"""

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


@click.command("sanity")
@click.argument("run", metavar="RUN", required=False)
@foreign_options
@click.option("--epsilon", metavar="FLOAT", help="Radius (the evaluation's own).")
@click.option("--num-steps", type=int, help="Steps of PGD (the evaluation's own).")
@click.option("--norm", help="linf, l2 or l1.")
@click.option(
    "--surrogate",
    metavar="RUN",
    help="Another run for the transfer attack; without it a network is trained, under "
    "attack.",
)
@click.option(
    "--surrogate-steps",
    type=click.IntRange(1),
    default=300,
    show_default=True,
    help="Steps of that training.",
)
@click.option(
    "--autoattack",
    is_flag=True,
    help="Compare PGD with AutoAttack, too, which takes most of the time.",
)
@click.option(
    "--max-samples", type=int, help="The first so many images (the run's own, or 1000)."
)
@click.option("--batch-size", type=int, help="Images at once (the run's own).")
@weights_option
@checkpoint_option
@click.option("--seed", type=int, help="Seed of the random starts (the run's own).")
@trust_option
@click.option("--output", metavar="FOLDER", help="Keep samples, report and picture.")
@click.option("--json", "json_file", metavar="FILE", help="Write the report as JSON.")
def command(
    run: str | None,
    model: str | None,
    data: str | None,
    overrides: tuple[str, ...],
    epsilon: str | None,
    num_steps: int | None,
    norm: str | None,
    surrogate: str | None,
    surrogate_steps: int,
    autoattack: bool,
    max_samples: int | None,
    batch_size: int | None,
    weights: str,
    checkpoint: Literal["last", "best"],
    seed: int | None,
    trust: bool,
    output: str | None,
    json_file: str | None,
) -> int:
    """Look for masked gradients in RUN; exit code 1 where a check flags them.

    Accuracy must fall with radius and steps and vanish where every image is within
    reach; restarts and another loss must matter little; noise and another network's
    adversarial examples must find nothing that gradients do not.
    """
    from pathlib import Path

    from dathvd import collector

    with collector.paused():
        from dathvd.errors import UserError
        from dathvd.evaluation import Request, SanityRequest, check_sanity
        from dathvd.lists import fractions
        from dathvd.runtime import guard, start

    name, which, foreign = judged_network(run, model, data, weights, overrides, trust)
    radius = fractions("--epsilon", epsilon)
    if len(radius) > 1:
        raise UserError(f"--epsilon {epsilon}: expected one radius, such as 8/255")
    evaluation = Request(
        batch_size=batch_size,
        max_samples=max_samples,
        seed=seed,
        weights=which,
        which=checkpoint,
        foreign=foreign,
        trust=trust,
        output=Path(output) if output else None,
        json_file=Path(json_file) if json_file else None,
    )
    request = SanityRequest(
        epsilon=radius[0] if radius else None,
        num_steps=num_steps,
        norm=norm,
        surrogate=surrogate,
        surrogate_steps=surrogate_steps,
        autoattack=autoattack,
        evaluation=evaluation,
    )
    runtime = start()
    with guard(runtime):
        return int(not check_sanity(name, request, runtime))
