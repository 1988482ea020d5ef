"""``dathvd resume``."""

from __future__ import annotations

import click


@click.command("resume")
@click.argument("runs", nargs=-1, required=True)
def command(runs: tuple[str, ...]) -> int:
    """Go on with runs that were stopped, failed or lost, from their last checkpoint."""
    from dathvd.service import submission
    from dathvd.service.commands import catalogue_entry, resolve, told

    for name in runs:
        run = resolve(name)
        with told():
            job = submission.resume(run)
        catalogue_entry(run)
        click.echo(f"{run}: attempt {job.attempt} is submitted")
    return 0
