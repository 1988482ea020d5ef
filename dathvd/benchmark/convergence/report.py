"""The table, the JSON and the picture of the study."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from dathvd.benchmark.accuracy.comparison import check_names
from dathvd.benchmark.convergence.study import (
    Curve,
    base_config,
    chosen_variants,
    codec_errors,
    images_of_an_epoch,
    measure,
)
from dathvd.benchmark.convergence.theory import RATE, family_of, sentences
from dathvd.benchmark.convergence.variants import (
    BASE,
    BATCH,
    CODECS,
    INNER,
    OTHERS,
    OVERLAP,
    STEPS,
    Study,
)
from dathvd.config import AttackConfig
from dathvd.errors import UserError
from dathvd.files import make_folder, write_json
from dathvd.lists import some_integers, words
from dathvd.report.plots import new_figure, save_figure
from dathvd.report.tables import plain_console
from dathvd.runtime import guard, start, together

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONFIG = "convergence"


def to_table(curves: Sequence[Curve], errors: dict[str, float], title: str) -> Table:
    """One row a variant; errors are over seeds."""
    table = Table(title=title)
    table.add_column("variant")
    for name in ("mean of |grad F|²", "last half", "rate", "codec error", "robust %"):
        table.add_column(name, justify="right")
    for curve in curves:
        is_codec = curve.family == CODECS
        table.add_row(
            curve.name,
            str(curve.average),
            str(curve.late),
            "–" if curve.rate is None else str(curve.rate),
            f"{errors[curve.value]:.2g}" if is_codec else "",
            f"{statistics.fmean(curve.robust):.1f}",
        )
    return table


def plot(curves: Sequence[Curve], study: Study, path: Path) -> None:
    """The running averages over the steps, a panel for each family."""
    found = {family: family_of(curves, family, study) for family in _families(curves)}
    columns = min(len(found), 3)
    rows = -(-len(found) // columns)
    figure = new_figure(4.3 * columns, 3.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axes, (family, members) in zip(panels, found.items()):
        _draw(axes, members)
        axes.set_title(family)
    for axes in panels[len(found) :]:
        axes.axis("off")
    for axes in panels[::columns]:
        axes.set_ylabel("mean of |grad F|² so far")
    save_figure(figure, path)


def _families(curves: Sequence[Curve]) -> list[str]:
    there = {curve.family for curve in curves}
    order = (STEPS, CODECS, INNER, BATCH, OVERLAP, OTHERS)
    return [family for family in order if family in there] or [STEPS]


def _draw(axes: Axes, members: Sequence[tuple[str, Curve]]) -> None:
    """One colour a variant: its mean over seeds, and between which seeds it lies."""
    for number, (name, curve) in enumerate(members):
        by_step = list(zip(*curve.averages, strict=True))
        means = [statistics.fmean(values) for values in by_step]
        colour = f"C{number}"
        axes.plot(curve.steps, means, color=colour, label=name)
        lowest, highest = map(min, by_step), map(max, by_step)
        axes.fill_between(
            curve.steps, list(lowest), list(highest), color=colour, alpha=0.15
        )
    draw_slope(axes, members[0][1])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_minor_formatter(lambda step, place: "")  # they would overlap
    axes.set_xlabel("steps T")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)


def draw_slope(axes: Axes, curve: Curve) -> None:
    """A dashed line of the theorem's rate, through the curve's highest point."""
    means = [statistics.fmean(values) for values in zip(*curve.averages, strict=True)]
    top = means.index(max(means))
    steps = curve.steps[0], curve.steps[-1]
    ends = [means[top] * (step / curve.steps[top]) ** -RATE for step in steps]
    axes.plot(steps, ends, "--", color="0.5", linewidth=1, label=f"T^-{RATE:g}")


def convergence_table(
    config_file: str | None,
    overrides: tuple[str, ...],
    steps: int,
    every: int,
    codecs: str,
    overlaps: str,
    inner_steps: str,
    batch_sizes: str,
    horizons: str,
    texts: tuple[str, ...],
    seeds: str,
    folder: Path,
) -> None:
    """Run ``dathvd benchmark-convergence``, whose options the parameters are.

    Raises:
        UserError: an option is not valid.
    """
    file = config_file or CONFIG
    base, settings = base_config(file, overrides, steps, every)
    parts = some_integers("--horizons", horizons, 2) if horizons else ()
    inner = some_integers("--inner-steps", inner_steps, 1) if inner_steps else ()
    sizes = some_integers("--batch-sizes", batch_sizes, 1) if batch_sizes else ()
    numbers = some_integers("--seeds", seeds)
    if inner:
        check_steps_can_vary(base.attack)
    shorter = shorter_runs(steps, every, parts)
    others = chosen_variants(texts)
    runtime = start()
    with guard(runtime):
        study = Study(
            base,
            together(runtime, lambda: images_of_an_epoch(base)),
            steps,
            words(codecs),
            words(overlaps),
            [str(count) for count in inner],
            [str(size) for size in sizes],
            shorter,
            others,
        )
        check_names([each.variant for each in study.variants()])
        curves = measure(study, numbers, file, settings, folder, runtime)
        if curves:
            _report(curves, study, file, settings, folder)


def check_steps_can_vary(attack: AttackConfig) -> None:
    """Refuse an attack whose number of steps is its own.

    Raises:
        UserError: all variants would be the same run.
    """
    if not attack.follows_num_steps:
        raise UserError(
            f"--inner-steps: attack.name {attack.name} does not follow "
            "attack.num_steps; set attack.name to pgd, or --inner-steps to ''"
        )


def shorter_runs(steps: int, every: int, parts: Sequence[int]) -> list[int]:
    """The steps of 1/2, 1/4, … of a run, cut to whole estimates; each number once.

    Args:
        steps: of the whole run.
        every: steps between estimates.
        parts: 2, 4, …

    Raises:
        UserError: a part is too short for an estimate.
    """
    for part in parts:
        if steps // part < every:
            raise UserError(
                f"--horizons: 1/{part} of {steps} steps is too short for an estimate "
                f"every {every} steps; take at most {steps // every}"
            )
    return list(dict.fromkeys(steps // part // every * every for part in parts))


def _report(
    curves: list[Curve],
    study: Study,
    file: str,
    settings: Sequence[str],
    folder: Path,
) -> None:
    """Print the table and what theory says of it, write the files."""
    errors = codec_errors(file, settings, curves, study.steps // 2)
    base = next(curve for curve in curves if curve.family == BASE)
    seeds, workers = len(base.seeds), base.num_workers
    title = (
        f"{file}, {study.steps} steps, {seeds} seed{'' if seeds == 1 else 's'}, "
        f"{workers} worker{'' if workers == 1 else 's'}"
    )
    plain_console().print(to_table(curves, errors, title))
    said = list(sentences(curves, study, errors))
    for line in said:
        print(line)
    print(
        f"an estimate's own standard error, from its groups: {base.sampling_error:.2g}"
    )
    make_folder(folder)
    content = {
        "title": title,
        "curves": [curve.to_json() for curve in curves],
        "codec_errors": errors,
        "theory": said,
    }
    write_json(folder / "convergence.json", content)
    plot(curves, study, folder / "convergence.png")
