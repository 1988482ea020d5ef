"""``dathvd serve``."""

from __future__ import annotations

import click


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8421, show_default=True)
@click.option(
    "--database",
    metavar="URL",
    help="The index of runs.  [default: $DATHVD_DATABASE, else this user's own file]",
)
@click.option("--root", default="runs", show_default=True, help="Where runs are kept.")
@click.option("--token-file", metavar="FILE", help="Hashes of the tokens that let in.")
@click.option("--tls-certificate", metavar="FILE", help="A PEM file.")
@click.option("--tls-key", metavar="FILE", help="A PEM file.")
@click.option("--behind-proxy", is_flag=True, help="A proxy in front ends TLS.")
@click.option("--name", "names", multiple=True, help="A further name of this server.")
@click.option(
    "--trust",
    is_flag=True,
    help="Take trainings that name components outside of dathvd: whoever may submit "
    "can then run code here.",
)
@click.option(
    "--notify-file",
    metavar="FILE",
    help="Apprise URLs, one a line, that are told of changes of state.",
)
@click.option(
    "--new-token",
    metavar="NAME",
    help="Make a token, print it this once, and end.",
)
def command(
    host: str,
    port: int,
    database: str | None,
    root: str,
    token_file: str | None,
    tls_certificate: str | None,
    tls_key: str | None,
    behind_proxy: bool,
    names: tuple[str, ...],
    trust: bool,
    notify_file: str | None,
    new_token: str | None,
) -> int:
    """Show submitted runs on a page, with an HTTP API and metrics for Prometheus.

    Listens on the loopback and answers this user alone, unless tokens are made. Another
    --host needs a token, and TLS here or in a proxy.
    """
    from pathlib import Path

    from dathvd.service.server.auth import add_token, default_token_file
    from dathvd.service.server.main import read_urls, serve
    from dathvd.service.server.settings import ServerSettings

    file = Path(token_file) if token_file else None
    if new_token:
        click.echo(add_token(file or default_token_file(), new_token))
        return 0
    serve(
        ServerSettings(
            host=host,
            port=port,
            database=database,
            root=Path(root).absolute(),
            token_file=file,
            tls_certificate=Path(tls_certificate) if tls_certificate else None,
            tls_key=Path(tls_key) if tls_key else None,
            behind_proxy=behind_proxy,
            names=names,
            trust=trust,
            notify=read_urls(Path(notify_file)) if notify_file else (),
        )
    )
    return 0
