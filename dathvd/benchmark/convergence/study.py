"""Trains the variants and reads what they logged of their gradients."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dathvd import run_folder
from dathvd.benchmark.accuracy.comparison import Variant, compare
from dathvd.benchmark.codecs.gradient import training_gradient
from dathvd.benchmark.codecs.timing import error_energy
from dathvd.benchmark.convergence.fit import (
    Measured,
    over_seeds,
    rate,
    rate_over_seeds,
    running_averages,
)
from dathvd.benchmark.convergence.variants import CODECS, Changed, Study
from dathvd.compression import build_compressor
from dathvd.config import Config, load_config
from dathvd.errors import UserError
from dathvd.runtime import Runtime
from dathvd.training.batches import plan_of
from dathvd.training.prepare import load

FITTED = 8
"""Rates are fitted from an eighth of the steps on: three octaves."""


@dataclass(frozen=True)
class Curve:
    """One variant: estimates of the squared gradient norm, seed by seed."""

    family: str
    value: str
    name: str
    settings: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    """After which the estimates were made."""
    values: tuple[tuple[float, ...], ...]
    """``[seeds, steps]``."""
    sampling_error: float
    """Mean standard error of one estimate, from the sample's groups."""
    robust: tuple[float, ...]
    """Robust accuracy at the end, in percent, of each seed."""
    num_workers: int

    @property
    def averages(self) -> list[list[float]]:
        """The mean of all estimates so far, ``[seeds, steps]``."""
        return [running_averages(values) for values in self.values]

    @property
    def average(self) -> Measured:
        """The mean over all steps, which the theorem bounds."""
        return over_seeds([averages[-1] for averages in self.averages])

    @property
    def late_values(self) -> list[float]:
        """The mean over the last half of the steps, of each seed."""
        half = len(self.steps) // 2
        return [statistics.fmean(values[half:]) for values in self.values]

    @property
    def late(self) -> Measured:
        """That over the seeds: near the floor, and not fitted."""
        return over_seeds(self.late_values)

    @property
    def rate(self) -> Measured | None:
        """By which power of the steps the running average falls."""
        first = next(
            place
            for place, step in enumerate(self.steps)
            if FITTED * step >= self.steps[-1]
        )
        return rate_over_seeds(
            [rate(self.steps[first:], each[first:]) for each in self.averages]
        )

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        fitted = self.rate
        return {
            **asdict(self),
            "average": asdict(self.average),
            "late": asdict(self.late),
            "rate": None if fitted is None else asdict(fitted),
        }


def base_config(
    config_file: str, overrides: Sequence[str], steps: int, every: int
) -> tuple[Config, tuple[str, ...]]:
    """The configuration that variants start from, and the settings that make it.

    Raises:
        UserError: it is not valid, or fewer than twice ``FITTED`` estimates are made.
    """
    settings = (*overrides, f"train.stationarity.every={every}")
    if steps < 2 * FITTED * every:
        raise UserError(
            f"--steps: {steps} steps, measured every {every}, are too few for a rate; "
            f"take {2 * FITTED * every} or more"
        )
    return load_config(config_file, settings), settings


def images_of_an_epoch(config: Config) -> int:
    """Images of one pass over the training set.

    Raises:
        UserError: files or settings are not usable.
    """
    dataset, _ = load(config)
    return plan_of(config, dataset, torch.device("cpu"), 0, 1).images_per_epoch


def measure(
    study: Study,
    seeds: Sequence[int],
    config_file: str,
    settings: Sequence[str],
    folder: Path,
    runtime: Runtime,
) -> list[Curve]:
    """Train what is not trained yet; every rank calls it.

    Returns:
        One curve a variant on rank 0, none on the other ranks.
    """
    changed = study.variants()
    variants = [each.variant for each in changed]
    rows = compare(variants, seeds, config_file, settings, folder, runtime)
    return [
        _curve(each, row.seeds, row.robust, row.num_workers, folder)
        for each, row in zip(changed, rows)
    ]


def _curve(
    changed: Changed,
    seeds: tuple[int, ...],
    robust: tuple[float, ...],
    num_workers: int,
    folder: Path,
) -> Curve:
    name = changed.variant.name
    by_seed = [_estimates(folder / f"{name}-seed{seed}") for seed in seeds]
    shared = set.intersection(*(set(found) for found in by_seed))
    steps = tuple(sorted(step for step in shared if step <= changed.steps))
    if not steps:
        raise UserError(f"{name}: no estimate of |grad F|² was finite")
    errors = [found[step][1] for found in by_seed for step in steps]
    return Curve(
        family=changed.family,
        value=changed.value,
        name=name,
        settings=changed.variant.settings,
        seeds=seeds,
        steps=steps,
        values=tuple(tuple(found[step][0] for step in steps) for found in by_seed),
        sampling_error=statistics.fmean(errors),
        robust=robust,
        num_workers=num_workers,
    )


def _estimates(run: Path) -> dict[int, tuple[float, float]]:
    """Estimates and their errors by step."""
    key = "gradient_norm_squared"
    rows = [row for row in run_folder.read_metrics(run) if key in row]
    return {row["step"]: (row[key], row[f"{key}_error"]) for row in rows}


def codec_errors(
    config_file: str, settings: Sequence[str], curves: Sequence[Curve], steps: int
) -> dict[str, float]:
    """‖Q(g) − g‖² / ‖g‖² of each codec by its name, on the base's gradient of a step.

    Only what is compressed counts: tensors of two and more dimensions.
    """
    base = load_config(config_file, settings)
    names = [base.compression.name]
    names += [curve.value for curve in curves if curve.family == CODECS]
    gradient = training_gradient(base, steps)
    return {
        name: error_energy(
            build_compressor(base.compression.model_copy(update={"name": name})),
            gradient,
        )
        for name in names
    }


def chosen_variants(texts: Sequence[str]) -> list[Variant]:
    """The variants of ``--vary``.

    Raises:
        UserError: one is not valid.
    """
    return [Variant.parse(text) for text in texts]
