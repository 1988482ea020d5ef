"""AutoAttack on a trained run: this package's code and the published one, in turn.

    python -m dathvd.benchmark.autoattack RUN --samples 359 --threads 2

The published code is PyPI's pyautoattack, a packaged copy of its authors'; it gets the
network as it is, in batches of 250, its own default.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from dathvd.config import Config
from dathvd.config.evaluation import EvaluationAttackConfig
from dathvd.data import Dataset
from dathvd.evaluation.grid import Grid
from dathvd.evaluation.part_size import with_large_parts
from dathvd.evaluation.requests import Request, evaluate_cells, restore
from dathvd.runtime import Runtime
from dathvd.tasks import load_task

_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
_BATCH = 250
_ALONE = Runtime(0, 1, 0, 1, torch.device("cpu"), "none", 1)


@click.command()
@click.argument("run")
@click.option("--samples", default=0, help="First test images; 0 takes all.")
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=1, show_default=True, help="Of both, in turn.")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    run: str, samples: int, threads: int, rounds: int, json_file: Path | None
) -> None:
    """Print the seconds of both, processor time and wall clock, and what is left."""
    torch.set_num_threads(threads)
    model, config = restore(run, _ALONE, Request())
    dataset, judge = load_task(config), config.evaluation.model_copy(
        update={"max_samples": samples}
    )
    config = config.model_copy(update={"evaluation": judge})
    ways: dict[str, Callable[[], int]] = {
        "published": lambda: _published(model, dataset, config),
        "dathvd": lambda: _own(model, dataset, config),
    }
    rows: dict[str, list[tuple[float, float, int]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            wall, processor = time.perf_counter(), time.process_time()
            left = way()
            times = time.perf_counter() - wall, time.process_time() - processor
            rows[name].append((*times, left))
            click.echo(
                f"{name}: {times[0]:.1f} s, {times[1]:.1f} s of processors, {left} left"
            )
    middle = {
        name: statistics.median(row[0] for row in found) for name, found in rows.items()
    }
    click.echo(f"published / dathvd: {middle['published'] / middle['dathvd']:.2f}")
    if json_file is not None:
        json_file.write_text(json.dumps(rows) + "\n")


def _own(model: nn.Module, dataset: Dataset, config: Config) -> int:
    """Survivors by ``dathvd evaluate``."""
    settings: EvaluationAttackConfig = config.evaluation.attack
    cells = Grid(("autoattack",)).cells(settings)
    parts = with_large_parts(config, model, dataset, _ALONE.device)
    results = evaluate_cells(model, dataset, parts, cells, Request(), _ALONE)
    return int((results.clean & results.right[0]).sum())


def _published(model: nn.Module, dataset: Dataset, config: Config) -> int:
    """Survivors by the published code."""
    import pyautoattack

    settings = config.evaluation
    count = min(len(dataset.test), settings.max_samples or len(dataset.test))
    places = torch.arange(count)
    images: Tensor = dataset.test.batch(places).float() / 255
    labels = dataset.test.labels[places]
    model.eval()
    attack = pyautoattack.AutoAttack(
        model,
        norm=_NORMS[settings.attack.norm],
        eps=settings.attack.epsilon,
        seed=config.seed,
    )
    found = attack.run_standard_evaluation(images, labels, batch_size=_BATCH)[0]
    with torch.no_grad():
        return int((model(found).argmax(dim=1) == labels).sum())


if __name__ == "__main__":
    main()
