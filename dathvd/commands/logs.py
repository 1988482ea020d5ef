"""``dathvd logs``."""

from __future__ import annotations

import click


@click.command("logs")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@click.option("--rank", type=click.IntRange(min=0), help="Only this rank's log.")
@click.argument("run")
def command(follow: bool, rank: int | None, run: str) -> int:
    """Print what a submitted run said: its launcher's log, or one rank's."""
    import contextlib
    import time

    from dathvd.errors import UserError
    from dathvd.service.backend import backend
    from dathvd.service.status import ENDED

    service = backend()
    name, place = service.find(run), 0
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            ended = not follow or service.run(name)["status"]["state"] in ENDED
            try:
                text, place = service.log(name, rank, place)
            except UserError:
                if ended:
                    raise
                text = ""  # the log is not there yet
            click.echo(text, nl=False)
            if ended and not text:
                return 0
            if not text:
                time.sleep(0.5)
    return 0
