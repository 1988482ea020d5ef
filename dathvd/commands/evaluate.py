"""``dathvd evaluate``: accuracy of a trained run, alone or on several workers."""

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
from dathvd.components import CORRUPTIONS, EVALUATION_ATTACKS


@click.command("evaluate")
@click.argument("run", metavar="RUN", required=False)
@foreign_options
@click.option(
    "--attack",
    "attacks",
    metavar="NAMES",
    help=f"Of {', '.join(EVALUATION_ATTACKS)}; pgd-margin has Carlini and Wagner's "
    "loss, noise draws random points.",
)
@click.option("--epsilon", "epsilons", metavar="RADII", help="Such as 0,2/255,4/255.")
@click.option("--num-steps", metavar="COUNTS", help="Steps of pgd, such as 1,10,50.")
@click.option(
    "--step-size",
    metavar="FLOAT",
    help="Length of one step. Without it the run's share of epsilon, or 2.5 epsilon / "
    "steps where that is longer.",
)
@click.option("--restarts", type=int, help="Number of random starts.")
@click.option("--norm", help="linf, l2 or l1.")
@click.option(
    "--balls",
    metavar="UNION",
    help="Such as linf=8/255,l2=0.5,l1=12: the worst of all counts for each image.",
)
@click.option(
    "--corruptions",
    metavar="NAMES",
    help=f"all, or some of {', '.join(CORRUPTIONS)}: accuracy on test images corrupted "
    "so, without an attack unless one is named.",
)
@click.option(
    "--severities", metavar="NUMBERS", help="Of corruptions, of 1 to 5 (all of them)."
)
@click.option(
    "--corruptions-from",
    metavar="FOLDER",
    help="CIFAR-10-C's or ImageNet-C's: reads all kinds in it instead, or those that "
    "--corruptions names.",
)
@click.option("--max-samples", type=int, help="Evaluate the first so many images.")
@click.option("--batch-size", type=int, help="Images at once (the run's own).")
@weights_option
@checkpoint_option
@click.option("--seed", type=int, help="Seed of the random starts (the run's own).")
@click.option(
    "--only-survivors",
    is_flag=True,
    help="Attack only what survived the attacks before: quicker, for the accuracy "
    "under all of them.",
)
@trust_option
@click.option(
    "--output",
    metavar="FOLDER",
    help="Keep every sample as it is judged, tables and curves. The same command goes "
    "on where it was interrupted, and other attacks may follow.",
)
@click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON.")
def command(
    run: str | None,
    model: str | None,
    data: str | None,
    overrides: tuple[str, ...],
    attacks: str | None,
    epsilons: str | None,
    num_steps: str | None,
    step_size: str | None,
    restarts: int | None,
    norm: str | None,
    balls: str | None,
    corruptions: str | None,
    severities: str | None,
    corruptions_from: str | None,
    max_samples: int | None,
    batch_size: int | None,
    weights: str,
    checkpoint: Literal["last", "best"],
    seed: int | None,
    only_survivors: bool,
    trust: bool,
    output: str | None,
    json_file: str | None,
) -> None:
    """Attack RUN (a run folder or a checkpoint folder) on its test set.

    Without options the attack is the run's own, and so are the numbers. Lists with
    commas make a grid of all combinations.

    \b
    dathvd evaluate RUN --attack fgsm,pgd,pgd-margin --epsilon 0,2/255,4/255,8/255
    mpirun -np 4 dathvd evaluate RUN --attack autoattack --output results
    dathvd evaluate RUN --corruptions all --severities 1,3,5
    dathvd evaluate --model mine.nets:make_network --weights FILE --data cifar10 --trust
    """
    from pathlib import Path

    from dathvd import collector

    with collector.paused():
        from dathvd.evaluation import Grid, Request, evaluate_checkpoint
        from dathvd.evaluation.corruptions import SEVERITIES, CorruptionRequest
        from dathvd.lists import fractions, integers, named_fractions, words
        from dathvd.runtime import guard, start

    corrupted = None
    if corruptions or corruptions_from or severities:
        chosen = integers("--severities", severities, least=1) or SEVERITIES
        if max(chosen) > max(SEVERITIES):
            raise click.UsageError("--severities: expected numbers from 1 to 5")
        folder = Path(corruptions_from) if corruptions_from else None
        corrupted = CorruptionRequest(words(corruptions) or ("all",), chosen, folder)
        if not (attacks or epsilons or balls or num_steps):
            attacks = "none"
    name, which, foreign = judged_network(run, model, data, weights, overrides, trust)
    lengths = fractions("--step-size", step_size)
    if len(lengths) > 1:
        raise click.UsageError("--step-size: expected one number")
    grid = Grid(
        attacks=words(attacks),
        epsilons=fractions("--epsilon", epsilons),
        num_steps=integers("--num-steps", num_steps),
        step_size=lengths[0] if lengths else None,
        restarts=restarts,
        norm=norm,
        balls=named_fractions("--balls", balls),
    )
    request = Request(
        grid,
        corruptions=corrupted,
        batch_size=batch_size,
        max_samples=max_samples,
        seed=seed,
        weights=which,
        which=checkpoint,
        foreign=foreign,
        trust=trust,
        only_survivors=only_survivors,
        output=Path(output) if output else None,
        json_file=Path(json_file) if json_file else None,
    )
    runtime = start()
    with guard(runtime):
        evaluate_checkpoint(name, request, runtime)
