"""``dathvd runs``."""

from __future__ import annotations

import click


@click.command("runs")
@click.option("--watch", is_flag=True, help="Show the table anew every two seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one run a line.")
@click.option("--rescan", metavar="ROOT", help="First index the runs below a folder.")
@click.option("--state", "states", multiple=True, help="Only these. May be repeated.")
@click.option("--group", metavar="NAME", help="Only the runs of this group.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@click.argument("text", required=False)
def command(
    watch: bool,
    as_json: bool,
    rescan: str | None,
    states: tuple[str, ...],
    group: str | None,
    limit: int,
    text: str | None,
) -> int:
    """List submitted runs, newest first; TEXT is a part of the folder's path.

    A state is what the engine and the run folder say now. The index behind the list can
    be removed at any time: --rescan makes it anew.
    """
    import json
    from pathlib import Path
    from typing import Any, get_args

    from dathvd.errors import UserError, nearest
    from dathvd.service.backend import backend
    from dathvd.service.here import Here
    from dathvd.service.status import State
    from dathvd.service.tables import print_runs, watch_runs

    known = get_args(State)
    for state in states:
        if state not in known:
            raise UserError(f"--state {state}: {nearest(state, known)}")
    service = backend()
    if rescan is not None:
        if not isinstance(service, Here):
            raise UserError("--rescan: a server indexes its own runs")
        if not Path(rescan).is_dir():
            raise UserError(f"--rescan {rescan}: it is not a folder")
        count = service.catalogue.rescan(Path(rescan))
        click.echo(f"{count} runs below {rescan}", err=True)

    def read() -> tuple[list[dict[str, Any]], int]:
        return service.runs(state=states, group=group, text=text, limit=limit)

    if watch:
        watch_runs(read)
        return 0
    rows, total = read()
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    else:
        print_runs(rows, total)
    return 0
