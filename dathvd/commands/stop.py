"""``dathvd stop``."""

from __future__ import annotations

import click


@click.command("stop")
@click.option("--now", is_flag=True, help="Without saving a checkpoint.")
@click.argument("runs", nargs=-1, required=True)
def command(now: bool, runs: tuple[str, ...]) -> int:
    """End runs, queued or running; they save a checkpoint first.

    RUN is a run folder, the end of its path, or the start of the job's uuid.
    """
    from dathvd.service import submission
    from dathvd.service.commands import catalogue_entry, resolve, told
    from dathvd.service.status import ENDED

    for name in runs:
        run = resolve(name)
        with told():
            status = submission.stop(run, now=now)
        catalogue_entry(run)
        if status.state in ENDED:
            click.echo(f"{run}: it was {status.state} already")
        else:
            click.echo(f"{run}: asked to end")
    return 0
