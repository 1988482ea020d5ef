"""The evaluation of a configuration, at the end of training and on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from dathvd import checkpoint
from dathvd.config import Config, explain
from dathvd.data import Dataset, load_dataset
from dathvd.errors import UserError
from dathvd.evaluation.accuracy import Accuracy, evaluate
from dathvd.files import write_json
from dathvd.hashing import parameters_sha256
from dathvd.report.progress import Progress
from dathvd.report.tables import describe_attack, print_accuracy
from dathvd.runtime import Runtime, read_on_root, together


def evaluate_test_set(
    model: nn.Module, dataset: Dataset, config: Config, runtime: Runtime
) -> Accuracy:
    """The configuration's evaluation, with a progress bar."""
    silent = not runtime.is_root
    progress = Progress("evaluate", 1, silent=silent)

    def on_batch(done: int, total: int) -> None:
        progress.total(total)
        progress.update({"step": done})

    settings = config.evaluation
    try:
        return evaluate(
            model,
            dataset.test,
            settings.attack,
            runtime=runtime,
            batch_size=settings.batch_size,
            seed=config.seed,
            max_samples=settings.max_samples,
            on_batch=on_batch,
        )
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


def evaluate_checkpoint(
    run: str, changes: dict[str, Any], json_file: str | None, runtime: Runtime
) -> None:
    """Evaluate a trained run; every rank calls it, rank 0 prints.

    Args:
        run: a run folder or a checkpoint folder.
        changes: fields of the evaluation's attack, and ``max_samples`` and ``seed``.
        json_file: where the result is written, if anywhere.
        runtime: this worker's place.

    Raises:
        UserError: no usable checkpoint, or a setting that is not valid.
    """
    model, config = _restore(run, runtime)
    config = together(runtime, lambda: _change(config, changes))
    dataset = together(runtime, lambda: load_dataset(config.data))
    model = model.to(runtime.device)
    accuracy = evaluate_test_set(model, dataset, config, runtime)
    if not runtime.is_root:
        return
    result = {
        **describe_accuracy(accuracy, config),
        "num_workers": runtime.size,
        "parameters_sha256": parameters_sha256(model),
    }
    print_accuracy(result, title=run)
    if json_file is not None:
        write_json(Path(json_file), result)


def _restore(run: str, runtime: Runtime) -> tuple[nn.Module, Config]:
    """The network; rank 0 reads the file, so only its host needs to see it."""
    name, data = read_on_root(runtime, lambda: checkpoint.resolve(run) / "model.pt")
    return together(
        runtime,
        lambda: checkpoint.restore_model(checkpoint.load_bytes(data, name), name),
    )


def _change(config: Config, changes: dict[str, Any]) -> Config:
    """The configuration with another attack.

    Raises:
        UserError: a value is not valid.
    """
    tree = config.model_dump()
    evaluation = tree["evaluation"]
    if changes.get("name", "pgd") != "pgd":
        changes = {"restarts": 1, **changes}  # one step from the image: all are equal
    for name, value in changes.items():
        if name == "seed":
            tree["seed"] = value
        elif name == "max_samples":
            evaluation["max_samples"] = value
        else:
            evaluation["attack"][name] = value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"evaluate: {explain(error)}") from None
