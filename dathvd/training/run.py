"""A whole run: data in, run folder out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from dathvd import checkpoint, run_folder
from dathvd.attacks import build_attack
from dathvd.config import Config
from dathvd.data import Dataset, build_augmentation, load_dataset
from dathvd.distributed import assert_identical
from dathvd.errors import UserError
from dathvd.evaluation import describe_accuracy, evaluate_test_set
from dathvd.hashing import parameters_sha256
from dathvd.noise import SampleNoise
from dathvd.optim import scaled_lr
from dathvd.report.plots import plot_examples, plot_training
from dathvd.report.progress import Progress
from dathvd.report.tables import print_accuracy
from dathvd.runtime import Runtime, from_root, together
from dathvd.training.batches import BatchPlan
from dathvd.training.loop import Loop
from dathvd.training.metrics import MetricsLog
from dathvd.training.state import TrainingState


def train(config: Config, run: Path | None, runtime: Runtime) -> bool:
    """Train, evaluate, and fill the run folder; every rank calls it.

    The same call again goes on from the newest checkpoint of the folder.

    Args:
        config: all that decides the result.
        run: the run folder; None makes a dated one under ``runs/``.
        runtime: this worker's place.

    Returns:
        True when the run is finished, False when it left early with a checkpoint.

    Raises:
        UserError: bad input; see the message.
    """
    together(runtime, lambda: check_batch(config, runtime.size))
    dataset = together(runtime, lambda: load_dataset(config.data))
    folder = _agree_on_folder(config, run, runtime)
    say = print if runtime.is_root else _silent
    say(f"run folder {folder}")
    say(runtime.describe())
    state = TrainingState.create(config, dataset, runtime)
    found = _agree_on_checkpoint(folder, runtime)
    finished = run_folder.read_result(folder) if runtime.is_root else None
    if found is not None:
        state.restore(found, runtime)
        say(f"going on from {found}")
    done = from_root(runtime, finished is not None)
    if not done and not _train(state, dataset, folder, runtime, say):
        say(f"left after step {state.step}; the same command goes on from there")
        return False
    if finished is not None:
        say("already finished; its result:")
        print_accuracy(finished, title=str(folder))
    return True


def check_batch(config: Config, size: int) -> None:
    """Refuse a batch that cannot give every worker an image.

    Raises:
        UserError: the batch is smaller than the number of workers.
    """
    parts = size * config.train.backward_passes_per_step
    if config.train.batch_size < parts:
        raise UserError(
            f"train.batch_size: {config.train.batch_size} images a step are fewer than "
            f"{parts} (workers * backward_passes_per_step); use at least {parts}"
        )


def _silent(text: str) -> None:
    """Print nothing."""


def describe_rate(config: Config) -> str:
    """One line: the optimizer, its peak rate, and how that follows from the batch."""
    optimizer, batch_size = config.optimizer, config.train.batch_size
    peak = scaled_lr(optimizer, batch_size)
    line = f"{optimizer.name}, learning rate {peak:.4g}"
    if optimizer.scaling != "none":
        line += (
            f" ({optimizer.lr:.4g} for {optimizer.base_batch_size} images, "
            f"{optimizer.scaling} scaling to {batch_size})"
        )
    return f"{line}, {config.schedule.name} schedule"


def _agree_on_folder(config: Config, run: Path | None, runtime: Runtime) -> Path:
    chosen = from_root(runtime, run or run_folder.default_run_folder(config))
    assert isinstance(chosen, Path)
    together(
        runtime,
        lambda: run_folder.prepare(chosen, config) if runtime.is_root else None,
    )
    return chosen


def _agree_on_checkpoint(folder: Path, runtime: Runtime) -> Path | None:
    found = checkpoint.find_checkpoints(folder)
    path = from_root(runtime, found[-1] if found else None)
    assert path is None or isinstance(path, Path)
    return path


def _train(
    state: TrainingState,
    dataset: Dataset,
    folder: Path,
    runtime: Runtime,
    say: Callable[[str], None],
) -> bool:
    config = state.config
    plan = BatchPlan(
        images=dataset.train,
        batch_size=config.train.batch_size,
        passes=config.train.backward_passes_per_step,
        rank=runtime.rank,
        size=runtime.size,
        seed=config.seed,
        augment=build_augmentation(config.data),
        device=runtime.device,
    )
    if runtime.is_root:
        run_folder.truncate_metrics(folder, state.step)
    total = config.train.epochs * plan.steps_per_epoch
    say(
        f"{len(dataset.train)} training images, {plan.steps_per_epoch} steps an epoch, "
        f"{total} steps; every image once an epoch, none dropped, none padded"
    )
    say(state.exchanger.describe())
    say(describe_rate(config))
    progress = Progress("train", total, done=state.step, silent=not runtime.is_root)
    log = MetricsLog(folder, runtime, progress, state.step)
    first, started = state.step, time.perf_counter()
    try:
        finished = Loop(state, plan, log, folder, runtime).finish()
    finally:
        progress.close()
    seconds = time.perf_counter() - started
    if finished:
        images = (state.step - first) * config.train.batch_size
        _conclude(state, dataset, folder, runtime, seconds, images / seconds)
    log.close()
    return finished


def _conclude(
    state: TrainingState,
    dataset: Dataset,
    folder: Path,
    runtime: Runtime,
    seconds: float,
    images_per_second: float,
) -> None:
    """Check that all ranks agree, evaluate, write the result and the pictures."""
    model = state.averaged_model()
    assert_identical(model)
    accuracy = evaluate_test_set(model, dataset, state.config, runtime)
    if not runtime.is_root:
        return
    result = {
        **describe_accuracy(accuracy, state.config),
        "num_workers": runtime.size,
        "train_seconds": round(seconds, 3),
        "images_per_second": round(images_per_second, 2),
        "parameters_sha256": parameters_sha256(model),
        "versions": run_folder.versions(),
    }
    rows = run_folder.read_metrics(folder)
    plot_training(rows, folder / "training.png")
    draw_examples(model, dataset, state.config, folder / "examples.png", runtime.device)
    run_folder.write_result(folder, result)
    print_accuracy(result, title=str(folder))


def draw_examples(
    model: nn.Module,
    dataset: Dataset,
    config: Config,
    path: Path,
    device: torch.device,
    count: int = 8,
) -> None:
    """The first test images, attacked, with what the network reads in them."""
    indices = torch.arange(min(count, len(dataset.test)))
    images = dataset.test.batch(indices).to(device).float().div_(255)
    labels = dataset.test.labels[indices]
    attack = build_attack(config.evaluation.attack)
    noise = SampleNoise(config.seed, indices.to(device))
    adversarial = attack(model, images, labels.to(device), noise)
    with torch.no_grad():
        read = [model(x).argmax(dim=1).tolist() for x in (images, adversarial)]

    shown = [
        [dataset.classes[number] for number in numbers]
        for numbers in (labels.tolist(), *read)
    ]
    plot_examples(images, adversarial, shown[0], shown[1], shown[2], path)
