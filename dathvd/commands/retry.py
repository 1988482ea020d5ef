"""``dathvd retry``."""

from __future__ import annotations

import click


@click.command("retry")
@click.argument("runs", nargs=-1, required=True)
def command(runs: tuple[str, ...]) -> int:
    """Run jobs that ended anew, from the beginning, in folders beside the old ones.

    ``resume`` goes on from the last checkpoint instead.
    """
    from dathvd.service import submission
    from dathvd.service.commands import catalogue_entry, resolve, told

    for name in runs:
        with told():
            run = submission.retry(resolve(name))
        catalogue_entry(run)
        click.echo(run)
    return 0
