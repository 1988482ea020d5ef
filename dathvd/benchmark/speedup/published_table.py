"""The published tables, measured on a rig (needs root).

``python -m dathvd.benchmark.speedup.published_table --output DIR`` makes them.

Steps on a rig of 2 and 4 hosts with one worker each, as multiples of the same step
without any communication, interleaved with it. The first table is in the regime of GPUs
on Ethernet: batch and attack are so small that the float32 exchange at 200 Mbit/s takes
about three times the compute. In the second one the compute is PGD-10 at a larger
batch, as a CPU would really train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from dathvd.benchmark.speedup.plan import PLAIN
from dathvd.benchmark.speedup.rows import SweepRow
from dathvd.benchmark.speedup.study import studies, write_files
from dathvd.benchmark.speedup.summary import to_table
from dathvd.benchmark.speedup.sweep import Sweep, points_of
from dathvd.benchmark.step.trainers import synthetic_data
from dathvd.config import Config, load_config
from dathvd.errors import UserError
from dathvd.files import make_folder, write_text

CODECS = (PLAIN, "none", "fp16", "int8:two-way", "sign:two-way", "topk:two-way")
SIGN = (PLAIN, "none", "sign:two-way")


@dataclass(frozen=True)
class Regime:
    """One published table."""

    name: str
    batch_size: int
    """Images of one worker in a step."""
    attack_steps: int
    rates: tuple[str, ...]
    codecs: tuple[str, ...]
    sizes: tuple[int, ...]
    seconds: float
    """How long rounds are timed for each rate and number of hosts, at least three."""


REGIMES = (
    Regime(
        name="exchange-bound",
        batch_size=2,
        attack_steps=10,
        rates=("50mbit", "200mbit", "1gbit", "unlimited"),
        codecs=CODECS,
        sizes=(1, 2, 4),
        seconds=30,
    ),
    Regime(
        name="compute-bound",
        batch_size=16,
        attack_steps=10,
        rates=("200mbit", "1gbit"),
        codecs=SIGN,
        sizes=(1, 2),
        seconds=40,
    ),
)


def regime_config(regime: Regime, overrides: Sequence[str]) -> Config:
    """PreActResNet-18 on random 3x32x32 images under the regime's attack."""
    settings = [
        "model.name=preact_resnet18",
        "attack.epsilon=8/255",
        "attack.step_size=2/255",
        f"attack.num_steps={regime.attack_steps}",
        f"train.batch_size={regime.batch_size}",
        "data.name=image_folder",  # of which only the shape, 3x32x32, is taken
    ]
    config = load_config(None, [*settings, *overrides])
    return synthetic_data(config, 4 * max(regime.sizes) * config.train.batch_size)


def measure_regime(
    regime: Regime, folder: Path, overrides: Sequence[str]
) -> list[SweepRow]:
    """The regime's rows, measured now on a rig."""
    config = regime_config(regime, overrides)
    sweep = Sweep(
        config=config,
        sizes=regime.sizes,
        points=points_of(regime.codecs, ["auto"], ["none", "attack"]),
        warmup=1,
        repeats=15,
        seconds=regime.seconds,
        threads=1,
        pin=True,
        timeout=900,
        folder=folder,
    )
    make_folder(folder)
    rows = sweep.on_rig(regime.rates, click.echo)
    found = studies(rows, shared_workers=sweep.shared_workers)
    write_files(found, rows, sweep.setting(), folder)
    errors = [f"{study.rate}: {study.error_line()}" for study in found]
    tables = [to_table(study.rows, study.title()) for study in found]
    text = "\n\n".join([to_markdown(regime, rows), *errors, *map(_quoted, tables)])
    write_text(folder / "table.md", text + "\n")
    return rows


def to_markdown(regime: Regime, rows: Sequence[SweepRow]) -> str:
    """The regime's tables: a row a codec and overlap mode, a column a rate."""
    lines = []
    for size in sorted({row.num_workers for row in rows} - {1}):
        here = [row for row in rows if row.num_workers == size]
        rates = [rate for rate in dict.fromkeys(row.rate for row in here) if rate]
        crowded = ", oversubscribed" if here[0].oversubscribed else ""
        local = {row.rate: row for row in here if row.is_local}
        compute = ", ".join(f"{local[rate].step_seconds:.2f}" for rate in rates)
        lines += [
            f"**{regime.name}, {size} hosts{crowded}**: {regime.batch_size} images a "
            f"worker, PGD-{regime.attack_steps}; multiples of the step without "
            f"communication ({compute} s)",
            "",
            "| codec | exchange | overlap | MB sent | " + " | ".join(rates) + " |",
            "|---|---|---|---:|" + "---:|" * len(rates),
        ]
        by_point: dict[tuple[str, str, str], dict[str | None, SweepRow]] = {}
        for row in here:
            if not row.is_local:
                key = (row.codec, row.exchange, row.overlap)
                by_point.setdefault(key, {})[row.rate] = row
        for (codec, exchange, overlap), found in by_point.items():
            cells = [_cell(found[rate]) for rate in rates]
            sent = f"{found[rates[0]].bytes_sent / 1e6:.2f}"
            words = [codec, exchange, overlap, sent, *cells]
            lines.append("| " + " | ".join(words) + " |")
        lines.append("")
    return "\n".join(lines).rstrip()


def _cell(row: SweepRow) -> str:
    return f"{row.ratio:.2f} ± {row.step_spread / row.compute_seconds:.2f}"


def _quoted(table: str) -> str:
    return f"```\n{table}\n```"


@click.command()
@click.option("--output", default="published", show_default=True, metavar="DIR")
@click.option(
    "--only",
    type=click.Choice([regime.name for regime in REGIMES]),
    help="One of the two tables.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    help="Of timed rounds for each rate and number of hosts, for steadier medians.",
)
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE")
def main(
    output: str, only: str | None, seconds: float | None, overrides: tuple[str, ...]
) -> None:
    """Measure the published tables; about 15 minutes on an otherwise idle machine."""
    try:
        for regime in REGIMES:
            if only in (None, regime.name):
                if seconds is not None:
                    regime = replace(regime, seconds=seconds)
                rows = measure_regime(regime, Path(output) / regime.name, overrides)
                click.echo(to_markdown(regime, rows))
    except UserError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
