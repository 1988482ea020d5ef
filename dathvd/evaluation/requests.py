"""The evaluation of a configuration, at the end of training and on its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from dathvd import checkpoint
from dathvd.attacks import Attack, describe_attack
from dathvd.attacks.probes import Probe, right_on_clean, survives
from dathvd.config import Config, explain
from dathvd.data import Dataset
from dathvd.devices import set_up_device
from dathvd.distributed.from_root import load_on_root
from dathvd.errors import UserError
from dathvd.evaluation.accuracy import Accuracy, evaluate
from dathvd.evaluation.corruptions import (
    CorruptionRequest,
    judge_corruptions,
    mean_accuracy,
)
from dathvd.evaluation.grid import Cell, Grid
from dathvd.evaluation.identity import identify
from dathvd.evaluation.judge import CLEAN, Judge
from dathvd.evaluation.part_size import with_parts
from dathvd.evaluation.preconditions import (
    check_gradients,
    check_outputs,
    follows_gradients,
    judged_data,
)
from dathvd.evaluation.results import Results
from dathvd.evaluation.store import Store
from dathvd.files import check_place, write_json, write_text
from dathvd.foreign import foreign_network
from dathvd.hashing import parameters_sha256
from dathvd.report.evaluation import plot_grid, print_corruptions, print_grid
from dathvd.report.progress import Progress
from dathvd.report.tables import print_accuracy
from dathvd.runtime import Runtime, gather_json, together
from dathvd.tasks import load_judged, task_of


@dataclass(frozen=True)
class Request:
    """What an evaluation on its own is asked for; None keeps the run's own."""

    grid: Grid = Grid()
    batch_size: int | None = None
    max_samples: int | None = None
    seed: int | None = None
    weights: checkpoint.Weights = "raw"
    """The weights to evaluate: the last step's (raw) or their average (ema)."""
    which: checkpoint.Which = "last"
    """Of a run folder: its newest checkpoint, or the best."""
    foreign: Config | None = None
    """The settings of a network that is no run's (``dathvd.foreign``), in its place."""
    trust: checkpoint.Trust = False
    """Whether components outside of dathvd that the run names may be imported."""
    corruptions: CorruptionRequest | None = None
    """Common corruptions to be judged on, beside the grid."""
    only_survivors: bool = False
    """Each attack sees only what survived those before it: less work, and only the
    accuracy under all of them together is that of the whole grid."""
    output: Path | None = None
    """The folder that keeps samples as they are judged, tables and pictures."""
    json_file: Path | None = None


def evaluate_test_set(
    model: nn.Module,
    dataset: Dataset,
    config: Config,
    runtime: Runtime,
    folder: Path | None = None,
) -> Accuracy:
    """The configuration's evaluation, with a progress bar.

    Args:
        model: from images in [0, 1] to logits.
        dataset: whose test set is judged.
        config: the attack, batch size and seed.
        runtime: this worker's place.
        folder: keeps what is judged, so that an evaluation that was stopped goes on.
    """
    settings, task = config.evaluation, task_of(config.objective)
    store = None
    if folder is not None:
        attack = settings.attack.model_dump(mode="json")
        identity = {**identify(model, dataset.test, config), "attack": attack}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
        store = Store(folder / digest.hexdigest()[:16], identity)
    with progress_bar("evaluate", runtime) as on_part:
        return evaluate(
            model,
            dataset.test,
            settings.attack,
            runtime=runtime,
            batch_size=settings.batch_size,
            seed=config.seed,
            max_samples=settings.max_samples,
            on_batch=on_part,
            store=store,
            right_under=lambda attack: task.probe(config.data, attack),
        )


@contextmanager
def progress_bar(what: str, runtime: Runtime) -> Iterator[Callable[[int, int], None]]:
    """A bar of rank 0's share; gives what is called with (done, total)."""
    progress = Progress(what, 1, silent=not runtime.is_root)

    def on_part(done: int, total: int) -> None:
        progress.total(total)
        progress.update({"step": done})

    try:
        yield on_part
    finally:
        progress.close()


def describe_accuracy(accuracy: Accuracy, config: Config) -> dict[str, Any]:
    """The part of ``result.json`` that an evaluation gives."""
    return {
        "clean_accuracy": accuracy.clean,
        "robust_accuracy": accuracy.robust,
        "attack": describe_attack(config.evaluation.attack),
        "num_samples": accuracy.num_samples,
    }


def evaluate_checkpoint(run: str, request: Request, runtime: Runtime) -> None:
    """Evaluate a trained run; every rank calls it, rank 0 prints and writes.

    Args:
        run: a run folder or a checkpoint folder.
        request: what to evaluate.
        runtime: this worker's place.

    Raises:
        UserError: no usable checkpoint, a setting that is not valid, or an output
            folder of another evaluation.
    """
    check_files(request, runtime)
    model, config = restore(run, runtime, request)
    config = together(runtime, lambda: with_request(config, request))
    cells = together(runtime, lambda: request.grid.cells(config.evaluation.attack))
    dataset = together(runtime, lambda: judged_data(config, run))
    set_up_device(runtime.device, config.train)
    model = model.to(runtime.device)
    together(runtime, lambda: check_outputs(model, dataset, runtime.device))
    if any(follows_gradients(cell) for cell in cells):
        together(runtime, lambda: check_gradients(model, dataset, runtime.device))
    if request.corruptions is not None:
        corruptions = request.corruptions
        together(runtime, lambda: corruptions.check(dataset))
    if request.batch_size is None:
        config = with_parts(config, model, dataset, cells, request.output, runtime)
    results = evaluate_cells(model, dataset, config, cells, request, runtime)
    corrupted = _judge_corruptions(model, dataset, config, request, runtime)
    if not runtime.is_root:
        return
    result = {
        **results.as_json(),
        **corrupted,
        "num_workers": runtime.size,
        "weights": request.weights,
        "checkpoint": judged_checkpoint(run, request),
        "parameters_sha256": parameters_sha256(model),
    }
    if len(cells) == 1:
        print_accuracy(result, title=run)
    else:
        print_grid(result, title=run)
    if corrupted:
        print_corruptions(corrupted["corruptions"], title=run)
    if request.json_file is not None:
        write_json(request.json_file, result)
    if request.output is not None:
        _write(request.output, results, result)


def judged_checkpoint(run: str, request: Request) -> str | None:
    """What a result says of the checkpoint: ``last``, ``best``, or the name of the
    checkpoint folder that was asked for; None of a network that is no run's."""
    if request.foreign is not None:
        return None
    place = Path(run)
    return place.resolve().name if checkpoint.is_checkpoint(place) else request.which


def check_files(request: Request, runtime: Runtime) -> None:
    """See that rank 0 can write the result, before there is any. A collective.

    Raises:
        UserError: it cannot.
    """
    file = request.json_file if runtime.is_root else None
    together(runtime, lambda: check_place("--json", file, request.output))


def _judge_corruptions(
    model: nn.Module,
    dataset: Dataset,
    config: Config,
    request: Request,
    runtime: Runtime,
) -> dict[str, Any]:
    """What the result says of corrupted images; empty where none are asked for."""
    if request.corruptions is None:
        return {}
    with progress_bar("corruptions", runtime) as on_part:
        found = judge_corruptions(
            request.corruptions,
            model,
            dataset,
            config,
            runtime,
            output=request.output,
            on_part=on_part,
        )
    source = request.corruptions.folder
    return {
        "corruptions": {
            "accuracy": found,
            "mean_accuracy": mean_accuracy(found),
            "source": "computed" if source is None else str(source),
        }
    }


def evaluate_cells(
    model: nn.Module,
    dataset: Dataset,
    config: Config,
    cells: list[Cell],
    request: Request,
    runtime: Runtime,
) -> Results:
    """Judge the test set in every cell; every rank calls it and has the result.

    Raises:
        UserError: an attack cannot be built, or the folder is another evaluation's.
    """
    num_classes = len(dataset.classes)
    attacks = together(runtime, lambda: [cell.build(num_classes) for cell in cells])
    probes: dict[str, Probe] = {CLEAN: right_on_clean}
    after: dict[str, str] = {}
    for cell, attack in zip(cells, attacks, strict=True):
        _add_stages(probes, after, cell.key, attack)
    store = None
    if request.output is not None:
        named = list(probes) if request.only_survivors else None
        identity = identify(model, dataset.test, config, only_survivors=named)
        store = Store(request.output, identity)
    with progress_bar("evaluate", runtime) as on_part:
        judge = Judge(
            dataset.test,
            runtime,
            batch_size=config.evaluation.batch_size,
            seed=config.seed,
            max_samples=config.evaluation.max_samples,
            store=store,
            only_survivors=request.only_survivors,
            on_part=on_part,
        )
        flags = dict(zip(probes, judge(model, probes, after), strict=True))
    right = torch.stack([flags[cell.key] for cell in cells])
    labels = dataset.test.labels[: judge.num_samples]
    busy = gather_json(round(sum(judge.seconds), 3), "busy seconds", runtime.size)
    return Results(
        cells, flags[CLEAN], right, labels, request.only_survivors, busy_seconds=busy
    )


def _add_stages(
    probes: dict[str, Probe], after: dict[str, str], key: str, attack: Attack
) -> None:
    """The probes of one cell: each stage for what those before it have left."""
    before, last = CLEAN, list(attack.stages)[-1]
    for name, stage in attack.stages.items():
        own = key if name == last else f"{key}/{name}"
        probes[own] = survives(stage)
        if len(attack.stages) > 1:
            after[own], before = before, own


def _write(folder: Path, results: Results, result: dict[str, Any]) -> None:
    write_json(folder / "result.json", result)
    write_text(folder / "cells.csv", results.cells_csv())
    write_text(folder / "samples.csv", results.samples_csv())
    plot_grid(result, folder / "accuracy.png")


_JUDGED = ("model.name", "data.name", "evaluation.attack.name")


def restore(run: str, runtime: Runtime, request: Request) -> tuple[nn.Module, Config]:
    """The network; rank 0 reads its weights, so only its host needs to see them.

    Raises:
        UserError: no usable checkpoint, or it names a component outside of dathvd that
            the request does not trust.
    """
    foreign, which = request.foreign, request.which
    if foreign is not None:
        dataset = together(runtime, lambda: load_judged(foreign))
        return foreign_network(foreign, dataset, runtime), foreign
    name, state = load_on_root(
        runtime,
        lambda: checkpoint.resolve(run, which) / "model.pt",
        checkpoint.load_networks,
    )

    def build() -> tuple[nn.Module, Config]:
        config = checkpoint.stored_config(state, name)
        checkpoint.require_trust(config, _JUDGED, name, request.trust)
        return checkpoint.restore_model(
            state, name, request.weights, trust=request.trust
        )

    return together(runtime, build)


def with_request(config: Config, request: Request) -> Config:
    """The configuration with the request's seed and sizes.

    Raises:
        UserError: a value is not valid.
    """
    tree = config.model_dump()
    if request.seed is not None:
        tree["seed"] = request.seed
    for name in ("batch_size", "max_samples"):
        value = getattr(request, name)
        if value is not None:
            tree["evaluation"][name] = value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"evaluate: {explain(error)}") from None
