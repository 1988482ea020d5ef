"""``dathvd submit``."""

from __future__ import annotations

import click


@click.command("submit")
@click.option("--on", "engine", default="local", show_default=True, help="The engine.")
@click.option(
    "-np",
    "--num-proc",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of ranks of each run.",
)
@click.option(
    "--run-dir",
    metavar="DIR",
    help="The run folder.  [default: a dated one below --root]",
)
@click.option("--root", default="runs", show_default=True, help="Where runs are kept.")
@click.option(
    "--grid",
    multiple=True,
    metavar="FIELD=VALUE,VALUE",
    help="Submit a run for each value. May be repeated: every combination.",
)
@click.option("--seeds", metavar="0,1,2", help="Submit a run for each seed.")
@click.option("--group", metavar="NAME", help="What the runs of a grid share.")
@click.option("--after", metavar="RUN", help="Start when that run is finished.")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="An option of the engine, such as partition=gpu. May be repeated.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    engine: str,
    num_proc: int,
    run_dir: str | None,
    root: str,
    grid: tuple[str, ...],
    seeds: str | None,
    group: str | None,
    after: str | None,
    options: tuple[str, ...],
    arguments: tuple[str, ...],
) -> int:
    """Submit runs to this machine's queue, Slurm, Kubernetes or LSF.

    \b
    dathvd submit -np 2 -- train --config configs/digits.yaml
    dathvd submit --grid attack.epsilon=0.1,0.2 --seeds 0,1,2 -- train
    dathvd submit --on slurm -np 8 --option partition=gpu -- train
    dathvd submit --after RUN -- evaluate RUN --attack autoattack

    Prints one run folder a line, as soon as its run is submitted.
    """
    from pathlib import Path

    from dathvd.errors import UserError
    from dathvd.lists import integers
    from dathvd.service import submission
    from dathvd.service.backend import backend
    from dathvd.service.here import Here

    numbers = integers("--seeds", seeds)
    if (grid or numbers) and arguments[:1] != ("train",):
        raise UserError("--grid and --seeds vary a training; end with: -- train")
    chosen = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"--option {option}: write NAME=VALUE")
        chosen[name] = value
    service = backend()
    before = service.find(after) if after else None
    if not isinstance(service, Here):
        if run_dir:
            raise UserError("--run-dir: the server chooses the folder")
        seen = service.submit(
            submission.overrides_of(arguments),
            engine=engine,
            num_proc=num_proc,
            options=chosen,
            grid=grid,
            seeds=numbers,
            group=group,
            after=before,
        )
        click.echo("\n".join(each["run"] for each in seen))
        return 0
    points = submission.expand(arguments, grid, numbers)
    if len(points) > 1 and not group:
        group = submission.new_group()
    if run_dir and len(points) > 1:
        raise UserError("--run-dir names one folder, and this grid has several runs")
    requests = [
        submission.Request(
            arguments=point,
            engine=engine,
            num_proc=num_proc,
            options=chosen,
            root=Path(root),
            run=Path(run_dir) if run_dir else None,
            group=group,
            after=Path(before) if before else None,
        )
        for point in points
    ]
    for request in requests:
        submission.check(request)  # all of them, before the first is submitted
    for request in requests:
        click.echo(service.submit_request(request)["run"])
    return 0
