"""Does layer-wise adaptation keep robust accuracy at large batches where SGD loses it?

LAMB and SGD train with multiples of a base batch for the same number of epochs. Their
rates grow by the rules that their authors gave: with the square root of the batch for
LAMB (You et al., ICLR 2020), in proportion for SGD (Goyal et al., 2017), after the same
warm-up. Called again it goes on where it was interrupted.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from rich.table import Table

from dathvd.benchmark.accuracy.comparison import (
    Variant,
    VariantRow,
    check_names,
    compare,
)
from dathvd.files import write_json
from dathvd.lists import some_integers
from dathvd.report.plots import new_figure, save_figure
from dathvd.report.tables import plain_console
from dathvd.runtime import guard, start

CONFIG = "cifar10/cpu_budget"
PASS_SIZE = 512
"""Images of one backward pass over all workers: larger batches take several."""


@dataclass(frozen=True)
class Rule:
    """An optimizer, with the law by which its rate grows with the batch."""

    label: str
    settings: tuple[str, ...]
    """Settings of the optimizer besides its learning rate for the base batch."""


RULES = {
    "lamb": Rule("LALR (LAMB)", ("optimizer.name=lamb", "optimizer.scaling=sqrt")),
    "sgd": Rule(
        "SGD",
        (
            "optimizer.name=sgd",
            "optimizer.scaling=linear",
            "optimizer.weight_decay=5e-4",
        ),
    ),
}


@dataclass(frozen=True)
class BatchPoint:
    """One optimizer at one batch size, with one accuracy in percent for each seed."""

    optimizer: str
    batch_size: int
    multiple: int
    clean: tuple[float, ...]
    robust: tuple[float, ...]
    loss_to_base: float
    """Points of mean robust accuracy below the same optimizer at the base batch."""


def variants(
    base: int, multiples: Sequence[int], rates: dict[str, float]
) -> list[Variant]:
    """Every optimizer at every batch size.

    Args:
        base: the base batch size.
        multiples: the batch sizes, as multiples of the base batch size.
        rates: the learning rate of each of ``RULES`` at the base batch size.
    """
    return [
        Variant(
            f"{name}-x{multiple}",
            (
                *RULES[name].settings,
                f"optimizer.lr={rates[name]}",
                f"optimizer.base_batch_size={base}",
                f"train.batch_size={multiple * base}",
                f"train.backward_passes_per_step={-(-multiple * base // PASS_SIZE)}",
                # a run that diverges is a result, not the end of the table
                "compression.max_skipped_in_a_row=1000000000",
            ),
        )
        for name in RULES
        for multiple in multiples
    ]


def points(
    rows: Sequence[VariantRow], base: int, multiples: Sequence[int]
) -> list[BatchPoint]:
    """The points that the rows of ``variants`` stand for, in the same order."""
    found = []
    for (name, multiple), row in zip(product(RULES, multiples), rows, strict=True):
        if multiple == multiples[0]:
            reference = row.robust_mean
        loss = reference - row.robust_mean
        found.append(
            BatchPoint(name, multiple * base, multiple, row.clean, row.robust, loss)
        )
    return found


def print_points(rows: Sequence[BatchPoint], title: str) -> None:
    """The table: means, with the lowest and highest seed."""
    table = Table(title=title)
    table.add_column("optimizer")
    for name in ("batch", "clean %", "robust %", "spread", "loss to base"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            RULES[row.optimizer].label,
            f"{row.batch_size} (x{row.multiple})",
            f"{statistics.fmean(row.clean):.2f}",
            f"{statistics.fmean(row.robust):.2f}",
            f"{min(row.robust):.1f}–{max(row.robust):.1f}",
            f"{row.loss_to_base:.2f}",
        )
    plain_console().print(table)


def plot_points(rows: Sequence[BatchPoint], attack: str, path: Path) -> None:
    """Robust accuracy over the batch size, each seed and the mean."""
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for colour, (name, rule) in zip(("C0", "C3"), RULES.items(), strict=True):
        own = [row for row in rows if row.optimizer == name]
        sizes = [row.batch_size for row in own]
        means = [statistics.fmean(row.robust) for row in own]
        axes.plot(sizes, means, "-", color=colour, label=rule.label)
        for row in own:
            seeds = [row.batch_size] * len(row.robust)
            axes.plot(seeds, row.robust, "o", color=colour, alpha=0.5)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("batch size, at equal epochs")
    axes.set_ylabel("robust accuracy (%)")
    axes.set_title(attack, fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def batches_table(
    config_file: str | None,
    overrides: tuple[str, ...],
    base: int,
    multiples: str,
    seeds: str,
    rates: dict[str, float],
    folder: Path,
) -> None:
    """Run ``dathvd benchmark-batches``, whose options the parameters are.

    Raises:
        UserError: an option is not valid.
    """
    sizes = list(some_integers("--multiples", multiples, 1))
    asked = variants(base, sizes, rates)
    check_names(asked)
    numbers = list(some_integers("--seeds", seeds))
    file = config_file or CONFIG
    runtime = start()
    with guard(runtime):
        rows = compare(asked, numbers, file, overrides, folder, runtime)
        if rows:
            found = points(rows, base, sizes)
            print_points(found, f"{file}, {rows[0].attack}, {len(numbers)} seeds")
            content = [asdict(point) for point in found]
            write_json(folder / "large_batch.json", content)
            plot_points(found, rows[0].attack, folder / "large_batch.png")
