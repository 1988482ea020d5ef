"""``dathvd benchmark-accuracy``: do codecs, objectives, batch sizes keep accuracy?"""

from __future__ import annotations

import click

from dathvd.commands.options import config_options, study_options


@click.command("benchmark-accuracy")
@config_options
@click.option(
    "--vary",
    "texts",
    multiple=True,
    required=True,
    metavar="'NAME: FIELD=VALUE …'",
    help="A variant; the first one is the reference.",
)
@study_options
@click.option("--title", default="comparison", show_default=True, help="Of the table.")
def command(
    config_file: str | None,
    overrides: tuple[str, ...],
    texts: tuple[str, ...],
    seeds: str,
    out: str,
    title: str,
) -> None:
    """Train variants of one configuration over several seeds and compare them.

    \b
    horovodrun -np 4 dathvd benchmark-accuracy --out runs/codecs \\
        --vary none --vary 'sign: compression.name=sign'
    """
    from pathlib import Path

    from dathvd import collector

    with collector.paused():
        from dathvd.benchmark.accuracy.comparison import check_variants, compare, report
        from dathvd.runtime import guard, start

    variants, numbers = check_variants(texts, seeds)
    folder = Path(out)
    runtime = start()
    with guard(runtime):
        rows = compare(variants, numbers, config_file, overrides, folder, runtime)
        if rows:
            report(rows, title, folder / "accuracy.json", folder / "accuracy.png")
