"""``dathvd logs``."""

from __future__ import annotations

import click


@click.command("logs")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@click.option("--rank", type=click.IntRange(min=0), help="Only this rank's log.")
@click.argument("run")
def command(follow: bool, rank: int | None, run: str) -> int:
    """Print what a submitted run said: its launcher's log, or one rank's."""
    from dathvd.service.commands import resolve
    from dathvd.service.logs import print_log

    print_log(resolve(run), rank, follow=follow)
    return 0
