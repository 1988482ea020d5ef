"""``dathvd resume``."""

from __future__ import annotations

import click


@click.command("resume")
@click.argument("runs", nargs=-1, required=True)
def command(runs: tuple[str, ...]) -> int:
    """Go on with runs that were stopped, failed or lost, from their last checkpoint."""
    from dathvd.service.backend import backend

    service = backend()
    for name in runs:
        seen = service.resume(service.find(name))
        click.echo(f"{seen['run']}: attempt {seen['job']['attempt']} is submitted")
    return 0
