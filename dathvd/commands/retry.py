"""``dathvd retry``."""

from __future__ import annotations

import click


@click.command("retry")
@click.argument("runs", nargs=-1, required=True)
def command(runs: tuple[str, ...]) -> int:
    """Run jobs that ended anew, from the beginning, in folders beside the old ones.

    ``resume`` goes on from the last checkpoint instead.
    """
    from dathvd.service.backend import backend

    service = backend()
    for name in runs:
        click.echo(service.retry(service.find(name))["run"])
    return 0
