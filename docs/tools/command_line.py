"""The page of all commands, from click."""

from __future__ import annotations

from collections.abc import Iterator

import click

from dathvd.cli import GROUPS, cli

INTRODUCTION = """\
# Command line

`dathvd` has one command for each thing that people do with it. This page is what
`dathvd COMMAND --help` prints, generated from the code.

Every command exits with 0 when it has done its work, 1 when it failed, 2 for bad input
(one line says what and where), 75 when it was asked to stop and has saved (the same
command goes on from there) and 130 after Ctrl-C.
"""


def page() -> str:
    """The page as Markdown."""
    parts = [INTRODUCTION]
    for title, commands in GROUPS.items():
        parts.append(f"## {title}\n")
        for name in commands:
            parts += [
                f"{'#' * min(2 + len(words), 4)} dathvd {' '.join(words)}\n\n"
                f"```text\n{text}\n```\n"
                for words, text in _helps(cli, [name])
            ]
    return "\n".join(parts)


def _helps(group: click.Group, words: list[str]) -> Iterator[tuple[list[str], str]]:
    """A command's words and help, then those of its own commands."""
    settings = group.context_settings
    context = click.Context(group, info_name="dathvd", **settings)
    command: click.Command = group
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(context, word)
        assert found is not None
        command = found
        context = click.Context(
            command, info_name=word, parent=context, terminal_width=80
        )
    yield words, "\n".join(
        line.rstrip() for line in command.get_help(context).splitlines()
    )
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from _helps(group, [*words, name])
