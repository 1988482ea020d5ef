"""``dathvd evaluate``: accuracy of a trained run, alone or on several workers."""

from __future__ import annotations

from typing import Any

import click


@click.command("evaluate")
@click.argument("run", metavar="RUN")
@click.option("--epsilon", metavar="FLOAT", help='Radius, such as 0.15 or "8/255".')
@click.option("--step-size", metavar="FLOAT", help="Length of one step.")
@click.option("--num-steps", type=int, help="Number of steps.")
@click.option("--restarts", type=int, help="Number of random starts.")
@click.option("--norm", help="linf or l2.")
@click.option("--attack", "name", help="pgd or fgsm.")
@click.option("--max-samples", type=int, help="Evaluate the first so many images.")
@click.option("--seed", type=int, help="Seed of the random starts (the run's own).")
@click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON.")
def command(run: str, json_file: str | None, **changes: Any) -> None:
    """Repeat the evaluation of RUN (a run folder or a checkpoint folder).

    Without options the attack is the run's own, and so are the numbers.
    """
    from dathvd.evaluation import evaluate_checkpoint
    from dathvd.runtime import guard, start

    given = {name: value for name, value in changes.items() if value is not None}
    runtime = start()
    with guard(runtime):
        evaluate_checkpoint(run, given, json_file, runtime)
