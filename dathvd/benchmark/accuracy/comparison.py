"""Accuracy of variants of one configuration, each over several seeds.

All runs follow one another in the same group of workers, each with its own run folder;
a run that is finished is not trained again, so an interrupted comparison goes on.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from dathvd import run_folder
from dathvd.config import load_config
from dathvd.errors import TEMPORARY_FAILURE, UserError
from dathvd.files import write_json
from dathvd.lists import some_integers
from dathvd.report.plots import new_figure, save_figure
from dathvd.report.tables import plain_console
from dathvd.runtime import Runtime
from dathvd.training.run import train


@dataclass(frozen=True)
class Variant:
    """A name and the settings that it changes."""

    name: str
    settings: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Variant:
        """``name: section.field=value section.field=value``.

        Raises:
            UserError: the name is missing or no part of a folder's name.
        """
        name, _, settings = text.partition(":")
        name = name.strip()
        if not name or name != Path(name).name:
            raise UserError(f"--vary {text}: expected 'name: section.field=value …'")
        return cls(name, tuple(settings.split()))


@dataclass(frozen=True)
class VariantRow:
    """One variant's accuracies in percent, over its seeds."""

    variant: str
    settings: tuple[str, ...]
    seeds: tuple[int, ...]
    clean: tuple[float, ...]
    robust: tuple[float, ...]
    num_workers: int
    attack: str
    train_seconds: float
    """Seconds of training, averaged over seeds."""
    bytes_sent: float
    """Bytes that one worker sends in a step, averaged over the reported steps."""

    @property
    def robust_mean(self) -> float:
        """Mean robust accuracy."""
        return statistics.fmean(self.robust)


def compare(
    variants: Sequence[Variant],
    seeds: Sequence[int],
    config_file: str | None,
    overrides: Sequence[str],
    folder: Path,
    runtime: Runtime,
) -> list[VariantRow]:
    """Train every variant with every seed; every rank calls it.

    Args:
        variants: the first one is the reference of the table.
        seeds: one run of each variant is trained with each of them.
        config_file: the common configuration.
        overrides: settings ``section.field=value`` that all variants share.
        folder: holds one run folder for each run.
        runtime: this worker's place.

    Returns:
        One row for each variant on rank 0, and an empty list on the other ranks.
    """
    configs = {
        (variant.name, seed): load_config(
            config_file, [*overrides, *variant.settings, f"seed={seed}"]
        )
        for seed in seeds
        for variant in variants
    }
    # seeds outside, variants inside: what is done after an interruption compares
    for (name, seed), config in configs.items():
        if not train(config, folder / f"{name}-seed{seed}", runtime):
            sys.exit(TEMPORARY_FAILURE)
    if not runtime.is_root:
        return []
    return [_row(variant, seeds, folder) for variant in variants]


def _row(variant: Variant, seeds: Sequence[int], folder: Path) -> VariantRow:
    results, sent = [], []
    for seed in seeds:
        run = folder / f"{variant.name}-seed{seed}"
        result = run_folder.read_result(run)
        if result is None:
            raise UserError(f"run {run}: is not finished")
        results.append(result)
        metrics = run_folder.read_metrics(run)
        sent.append(sum(row["bytes_sent"] for row in metrics) / metrics[-1]["step"])
    return VariantRow(
        variant=variant.name,
        settings=variant.settings,
        seeds=tuple(seeds),
        clean=tuple(100 * result["clean_accuracy"] for result in results),
        robust=tuple(100 * result["robust_accuracy"] for result in results),
        num_workers=results[0]["num_workers"],
        attack=results[0]["attack"],
        train_seconds=statistics.fmean(result["train_seconds"] for result in results),
        bytes_sent=statistics.fmean(sent),
    )


def report(
    rows: Sequence[VariantRow], title: str, json_file: Path, png_file: Path
) -> None:
    """Print the table, write JSON and a plot. The first row is the reference."""
    table = Table(title=f"{title}; {rows[0].attack}; {rows[0].num_workers} workers")
    for name in ("variant", "clean %", "robust %", "spread", "to first", "kB/step"):
        table.add_column(name, justify="left" if name == "variant" else "right")
    for row in rows:
        table.add_row(
            row.variant,
            f"{statistics.fmean(row.clean):.2f}",
            f"{row.robust_mean:.2f}",
            f"{min(row.robust):.1f}–{max(row.robust):.1f}",
            f"{row.robust_mean - rows[0].robust_mean:+.2f}",
            f"{row.bytes_sent / 1e3:.1f}",
        )
    plain_console().print(table)
    write_json(json_file, [asdict(row) for row in rows])
    _plot(rows, title, png_file)


def _plot(rows: Sequence[VariantRow], title: str, path: Path) -> None:
    figure = new_figure(8, 0.5 * len(rows) + 1.4)
    axes = figure.subplots()
    for place, row in enumerate(rows):
        axes.plot(row.robust, [place] * len(row.robust), "o", color="C1", alpha=0.5)
        axes.plot(row.robust_mean, place, "|", color="C1", markersize=18)
    axes.axvspan(
        rows[0].robust_mean - 1, rows[0].robust_mean + 1, color="C0", alpha=0.12
    )
    axes.set_yticks(range(len(rows)), [row.variant for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"robust accuracy (%), {rows[0].attack}")
    axes.set_title(f"{title}: each seed, mean; band: first ±1 point", fontsize=9)
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def check_variants(texts: Sequence[str], seeds: str) -> tuple[list[Variant], list[int]]:
    """The variants and seeds of the command line.

    Raises:
        UserError: a variant or a seed is not valid, or two variants share a name.
    """
    variants = [Variant.parse(text) for text in texts]
    check_names(variants)
    return variants, list(some_integers("--seeds", seeds))


def check_names(variants: Sequence[Variant]) -> None:
    """Refuse variants that would share run folders.

    Raises:
        UserError: two variants have the same name.
    """
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--vary: two variants are named {name!r}")
