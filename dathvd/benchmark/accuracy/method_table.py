"""Accuracy of the training methods on one data set, each over several seeds.

Called again it goes on where it was interrupted.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dathvd import run_folder
from dathvd.benchmark.accuracy.labelled_share import Files, num_test, prepare
from dathvd.benchmark.accuracy.method_rows import MethodRow, plot_shares, print_rows
from dathvd.benchmark.accuracy.methods import METHODS, SHARED, Bench
from dathvd.config import DataConfig, load_config
from dathvd.errors import UserError, choose
from dathvd.evaluation import Grid, Request, evaluate_checkpoint
from dathvd.files import write_json
from dathvd.lists import fractions, some_integers, words
from dathvd.runtime import Runtime, from_root, guard, start, together

CONFIG = "cifar10/cpu_budget"


def write_data(
    config: DataConfig, folder: Path, share: float, runtime: Runtime
) -> Files:
    """The data set's files, written by rank 0; every rank calls it."""
    root = runtime.is_root
    files = together(runtime, lambda: prepare(config, folder, share) if root else None)
    sent = from_root(runtime, None if files is None else files.to_json())
    assert sent is not None
    return Files.from_json(sent)


def judge(run: Path, attack: str, samples: int, bench: Bench) -> dict[str, Any]:
    """The result of one attack on a run's first test images, computed once."""
    output = run / "evaluations" / attack
    root = bench.runtime.is_root
    there = root and is_judged(output / "result.json", samples, bench.files)
    if not from_root(bench.runtime, there):
        grid = Grid(attacks=(attack,), num_steps=(50,), restarts=1)
        request = Request(grid, max_samples=samples, trust=bench.trusted, output=output)
        evaluate_checkpoint(str(run), request, bench.runtime)
    text = (output / "result.json").read_text() if bench.runtime.is_root else "{}"
    return dict(json.loads(text))


def is_judged(result: Path, samples: int, files: Files) -> bool:
    """Whether a result is there, and of as many test images as are asked for."""
    if not result.exists():
        return False
    judged: int = json.loads(result.read_text())["num_samples"]
    return judged == min(samples, num_test(files))


def measure_methods(
    names: Sequence[str], benches: Sequence[Bench], samples: int, hard_samples: int
) -> list[MethodRow]:
    """Train and judge every method with every seed and share; every rank calls it.

    Args:
        names: the methods, keys of ``METHODS`` or ``SHARED``.
        benches: one for each seed and share, seed by seed.
        samples: test images of the clean and PGD-50 accuracy.
        hard_samples: test images of AutoAttack; 0 leaves it out.

    Returns:
        One row for each method, and share where it has one, on rank 0, and an empty
        list on the other ranks.
    """
    found: dict[tuple[str, float | None], dict[int, dict[str, Any]]] = {}
    for bench in benches:
        for name in names:
            seeds = found.setdefault(
                (name, bench.share if name in SHARED else None), {}
            )
            if bench.seed in seeds:
                continue
            bench.stages.clear()
            run = {**METHODS, **SHARED}[name](bench)
            pgd = judge(run, "pgd", samples, bench)
            hard = judge(run, "autoattack", hard_samples, bench) if hard_samples else {}
            if bench.runtime.is_root:
                seeds[bench.seed] = _entry(bench.stages, pgd, hard)
    if not benches[0].runtime.is_root:
        return []
    return [_row(name, share, entries) for (name, share), entries in found.items()]


def _entry(
    stages: Sequence[Path], pgd: dict[str, Any], hard: dict[str, Any]
) -> dict[str, Any]:
    results = [run_folder.read_result(run) or {} for run in stages]
    return {
        "clean": 100 * pgd["clean_accuracy"],
        "pgd": 100 * pgd["robust_accuracy"],
        "autoattack": 100 * hard["robust_accuracy"] if hard else None,
        "seconds": sum(result["train_seconds"] for result in results),
        "num_workers": results[-1]["num_workers"],
    }


def _row(
    name: str, share: float | None, by_seed: dict[int, dict[str, Any]]
) -> MethodRow:
    entries = list(by_seed.values())
    hard = [entry["autoattack"] for entry in entries]
    return MethodRow(
        name,
        tuple(by_seed),
        clean=tuple(entry["clean"] for entry in entries),
        pgd=tuple(entry["pgd"] for entry in entries),
        autoattack=tuple(value for value in hard if value is not None),
        train_seconds=statistics.fmean(entry["seconds"] for entry in entries),
        num_workers=entries[0]["num_workers"],
        labelled=share,
    )


def methods_table(
    config_file: str | None,
    overrides: tuple[str, ...],
    data: str | None,
    methods: str | None,
    seeds: str,
    labelled: str,
    samples: int,
    hard_samples: int,
    folder: Path,
) -> None:
    """Run ``dathvd benchmark-methods``, whose options the parameters are.

    Raises:
        UserError: an option is not valid, or the data set is not usable.
    """
    file = config_file or CONFIG
    names = list(words(methods)) or [*METHODS, *SHARED]
    for name in names:
        choose("--methods", name, {**METHODS, **SHARED})
    shares = list(some_shares(labelled))
    numbers = list(some_integers("--seeds", seeds))
    source = ("data.name=image_folder", f"data.root={data}") if data else ()
    config = load_config(file, [*overrides, *source])
    runtime = start(config.train.device)
    with guard(runtime):
        places = folder / "data"
        files = [write_data(config.data, places, share, runtime) for share in shares]
        benches = [
            Bench(file, overrides, each, folder, seed, runtime, share)
            for seed in numbers
            for share, each in zip(shares, files)
        ]
        rows = measure_methods(names, benches, samples, hard_samples)
        if rows:
            print_rows(rows, f"{file}, {len(numbers)} seeds: mean (lowest–highest)")
            write_json(folder / "methods.json", [asdict(row) for row in rows])
            if len(shares) > 1:
                plot_shares(rows, folder / "methods.png")


def some_shares(text: str) -> tuple[float, ...]:
    """The shares of labels of ``--labelled``, each above 0 and below 1.

    Raises:
        UserError: there is none, or one is out of its range.
    """
    shares = fractions("--labelled", text)
    for share in shares:
        if not 0 < share < 1:
            raise UserError(f"--labelled: must be above 0 and below 1, got {share:g}")
    if not shares:
        raise UserError(f"--labelled: expected shares such as 0.05,0.1, got {text!r}")
    return shares
