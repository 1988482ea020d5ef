"""``dathvd compare``."""

from __future__ import annotations

import click


@click.command("compare")
@click.option("--group", metavar="NAME", help="The runs of a group.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("runs", nargs=-1)
def command(group: str | None, as_json: bool, runs: tuple[str, ...]) -> int:
    """Show runs side by side: differing fields beside accuracies.

    Runs that differ in their seed alone are summed up by mean and range. Runs judged by
    different attacks, samples or data are marked as not comparable.
    """
    import json

    from dathvd.errors import UserError
    from dathvd.service.backend import backend
    from dathvd.service.tables import print_comparison

    if not runs and not group:
        raise UserError("name runs to compare, or their --group")
    service = backend()
    compared = service.compare([service.find(name) for name in runs], group)
    if not compared["runs"]:
        raise UserError(f"--group {group}: it has no runs")
    if as_json:
        click.echo(json.dumps(compared))
    else:
        print_comparison(compared)
    return 0
