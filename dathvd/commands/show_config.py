"""``dathvd show-config``."""

from __future__ import annotations

import click

from dathvd.commands.options import config_options


@click.command("show-config")
@config_options
def command(config_file: str | None, overrides: tuple[str, ...]) -> None:
    """Print the resolved configuration as YAML."""
    from dathvd.config import dump_config, load_config

    click.echo(dump_config(load_config(config_file, overrides)), nl=False)
