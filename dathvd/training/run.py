"""A whole run: data in, run folder out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dathvd import checkpoint, run_folder, run_lock, stop
from dathvd.attacks import build_attack, describe_attack
from dathvd.compression import build_compressor
from dathvd.config import Config
from dathvd.data import (
    Dataset,
    ImageSet,
)
from dathvd.devices import check_precision, set_up_device
from dathvd.distributed import assert_identical
from dathvd.errors import UserError
from dathvd.evaluation import Accuracy, describe_accuracy, evaluate_test_set
from dathvd.evaluation.pairs import evaluate_pairs
from dathvd.hashing import parameters_sha256
from dathvd.noise import SampleNoise
from dathvd.optim import scaled_lr
from dathvd.report.plots import plot_examples, plot_training, plot_trust_ratios
from dathvd.report.progress import Progress
from dathvd.report.tables import print_accuracy
from dathvd.runtime import AgreedError, Runtime, from_root, together
from dathvd.training.batches import BatchPlan, check_pairs, plan_of
from dathvd.training.build import load_task
from dathvd.training.components import check_components, ignored_options
from dathvd.training.guard import Guard, hold_out
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
    together(runtime, lambda: check_precision(runtime.device, config.train))
    set_up_device(runtime.device, config.train)
    together(runtime, lambda: check_components(config))
    dataset, held_out = together(runtime, lambda: load(config))
    folder = _agree_on_folder(config, run, runtime)
    say = print if runtime.is_root else _silent
    say(f"run folder {folder}")
    say(runtime.describe())
    for line in ignored_options(config):
        say(line)
    state = TrainingState.create(config, dataset, runtime)
    if held_out is not None:
        state.guard = Guard(config, held_out, runtime)
        say(f"{len(held_out)} training images are held out for the guard's probe")
    found = _restore_newest(state, folder, runtime)
    finished = run_folder.read_result(folder) if runtime.is_root else None
    if found is not None:
        say(f"going on from {found}")
    done = from_root(runtime, finished is not None)
    if not done and not _train(state, dataset, folder, runtime, say):
        say(f"left after step {state.step}; the same command goes on from there")
        return False
    if finished is not None:
        say("already finished; its result:")
        print_accuracy(finished, title=str(folder))
    return True


def load(config: Config) -> tuple[Dataset, ImageSet | None]:
    """The data set, and training images taken from it for the guard, if it is on.

    Raises:
        UserError: files or settings are not usable.
    """
    dataset = load_task(config)
    if config.train.guard.action == "none":
        return dataset, None
    return hold_out(dataset, config)


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


def describe_attacks(config: Config) -> Iterator[str]:
    """Two lines: training's attack with what it maximises, and the evaluation's."""
    attack = config.attack
    line = f"trained on {describe_attack(attack)}"
    if attack.name in ("pgd", "fgsm", "fgsm_rs"):
        line += f", which maximises {attack.loss}"
        if attack.name == "pgd" and attack.random_start:
            line += f" from a {attack.start} start"
    yield line
    yield f"judged by {describe_attack(config.evaluation.attack)}"


def compression_warmup(config: Config, total: int) -> int:
    """How many exchanges of a run of ``total`` steps come before compression."""
    share = config.compression.warmup
    if share is None:
        share = build_compressor(config.compression).warmup
    return round(share * total * config.attack.replays)


def _agree_on_folder(config: Config, run: Path | None, runtime: Runtime) -> Path:
    def prepare() -> list[str]:
        if not runtime.is_root:
            return []
        folder = run or run_folder.make_default_run_folder(config)
        run_folder.prepare(folder, config)
        return [str(folder), run_lock.hold(folder)]

    name, mark = from_root(runtime, together(runtime, prepare))
    folder = Path(name)
    together(runtime, lambda: run_lock.look_for(folder, mark))
    if runtime.is_root:
        run_lock.forget(folder, mark)
    return folder


def _restore_newest(
    state: TrainingState, folder: Path, runtime: Runtime
) -> Path | None:
    """Go on from the newest checkpoint that is intact, if there is any checkpoint.

    Raises:
        UserError: none is intact; training does not begin again without being told.
    """
    names = [str(path) for path in checkpoint.find_checkpoints(folder)]
    found = [Path(name) for name in from_root(runtime, names)]
    while found:
        newest = found.pop()
        try:
            state.restore(newest, runtime)
            return newest
        except AgreedError as error:
            if not (error.unreadable and found):
                raise
            kept = checkpoint.aside(newest)
            if runtime.is_root:
                print(f"WARNING: {error}; kept as {kept.name}, taking {found[-1].name}")
            together(
                runtime,
                lambda: checkpoint.set_aside(newest) if runtime.is_root else None,
            )
    return None


def plan_batches(config: Config, dataset: Dataset, runtime: Runtime) -> BatchPlan:
    """This worker's batches of every step.

    Raises:
        UserError: the objective cannot work with the last batch of an epoch.
    """
    plan = plan_of(config, dataset, runtime.device, runtime.rank, runtime.size)
    check_pairs(plan, config)
    return plan


def _train(
    state: TrainingState,
    dataset: Dataset,
    folder: Path,
    runtime: Runtime,
    say: Callable[[str], None],
) -> bool:
    config = state.config
    plan = together(runtime, lambda: plan_batches(config, dataset, runtime))
    total = config.train.epochs * plan.steps_per_epoch
    say(plan.describe(total))
    state.exchanger.warmup_steps = compression_warmup(config, total)
    say(state.exchanger.describe())
    if state.exchanger.warmup_steps:
        say(f"the first {state.exchanger.warmup_steps} exchanges compress nothing")
    say(describe_rate(config))
    for line in describe_attacks(config):
        say(line)
    if state.origin is not None:
        say(state.origin)
    progress = Progress("train", total, done=state.step, silent=not runtime.is_root)
    log = MetricsLog(folder, runtime, progress, state.step)
    loop, started = Loop(state, plan, log, folder, runtime), time.perf_counter()
    try:
        finished = loop.finish()
    finally:
        progress.close()
    seconds = time.perf_counter() - started
    if finished:
        speed = loop.images / seconds
        _conclude(state, dataset, folder, runtime, seconds, speed)
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
    stop.leave_when_asked()
    model = state.published_model()
    assert_identical(model)
    judged = folder / "judged"
    accuracy = _judge(model, dataset, state.config, runtime, judged)
    average = _judge_average(state, dataset, runtime, judged)
    if not runtime.is_root:
        return
    result = {
        **describe_accuracy(accuracy, state.config),
        **average,
        **({} if state.guard is None else {"guard": state.guard.describe()}),
        "num_workers": runtime.size,
        "train_seconds": round(seconds, 3),
        "images_per_second": round(images_per_second, 2),
        "parameters_sha256": parameters_sha256(model),
        "versions": run_folder.versions(),
    }
    rows = run_folder.read_metrics(folder)
    plot_training(rows, folder / "training.png")
    plot_trust_ratios(rows, folder / "trust_ratios.png")
    if state.config.objective.name != "contrastive":
        picture = folder / "examples.png"
        draw_examples(model, dataset, state.config, picture, runtime.device)
    run_folder.write_result(folder, result)
    shutil.rmtree(judged, ignore_errors=True)
    print_accuracy(result, title=str(folder))


def _judge(
    model: nn.Module,
    dataset: Dataset,
    config: Config,
    runtime: Runtime,
    judged: Path,
) -> Accuracy:
    if config.objective.name == "contrastive":
        return evaluate_pairs(model, dataset, config, runtime)
    return evaluate_test_set(model, dataset, config, runtime, judged)


def _judge_average(
    state: TrainingState, dataset: Dataset, runtime: Runtime, judged: Path
) -> dict[str, Any]:
    """What the result says of the weights' moving average; empty without one."""
    model = state.published_average()
    if model is None:
        return {}
    assert_identical(model)
    accuracy = _judge(model, dataset, state.config, runtime, judged)
    return {
        "ema_clean_accuracy": accuracy.clean,
        "ema_robust_accuracy": accuracy.robust,
        "ema_parameters_sha256": parameters_sha256(model),
    }


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
