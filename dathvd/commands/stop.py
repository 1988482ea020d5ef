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
    from dathvd.service.backend import backend

    service = backend()
    for name in runs:
        seen = service.stop(service.find(name), now=now)
        click.echo(f"{seen['run']}: {seen['status']['state']}, asked to end")
    return 0
