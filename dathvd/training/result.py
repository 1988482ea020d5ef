"""What a finished run leaves: its judgement, its numbers and its pictures."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dathvd import checkpoint, run_folder, stop
from dathvd.attacks import build_attack
from dathvd.config import Config
from dathvd.data import Dataset
from dathvd.distributed import assert_identical
from dathvd.distributed.from_root import load_on_root
from dathvd.evaluation import describe_accuracy, evaluate_test_set
from dathvd.hashing import parameters_sha256
from dathvd.noise import SampleNoise
from dathvd.report.plots import plot_examples, plot_training, plot_trust_ratios
from dathvd.report.tables import print_accuracy
from dathvd.training.prepare import Job
from dathvd.training.state import TrainingState


def conclude(
    state: TrainingState, job: Job, *, seconds: float, num_images: int
) -> None:
    """Check that all ranks agree, evaluate, write the result and the pictures.

    Args:
        state: after its last step.
        job: whose folder takes them.
        seconds: of training, in this process.
        num_images: trained on in that time, over all workers.
    """
    stop.leave_when_asked()
    model = state.published_model()
    assert_identical(model)
    judged = job.folder / "judged"
    accuracy = evaluate_test_set(model, job.dataset, job.config, job.runtime, judged)
    average = _judge_average(state, job, judged)
    best = judge_best(state, job, judged)
    if not job.runtime.is_root:
        return
    result = {
        **describe_accuracy(accuracy, job.config),
        **average,
        **best,
        **({} if state.guard is None else {"guard": state.guard.describe()}),
        "num_workers": job.runtime.size,
        "train_seconds": round(seconds, 3),
        "images_per_second": round(num_images / seconds, 2),
        "parameters_sha256": parameters_sha256(model),
        "versions": run_folder.versions(),
    }
    if job.config.evaluation.pictures:
        _draw(model, job)
    run_folder.write_result(job.folder, result)
    shutil.rmtree(judged, ignore_errors=True)
    print_accuracy(result, title=str(job.folder))


def _judge_average(state: TrainingState, job: Job, judged: Path) -> dict[str, Any]:
    """What the result says of the weights' average, the best one of several."""
    name, averages = state.best_average, state.published_averages()
    if name is None:
        return {}
    model = averages[name]
    assert_identical(model)
    accuracy = evaluate_test_set(model, job.dataset, job.config, job.runtime, judged)
    return {
        "ema_clean_accuracy": accuracy.clean,
        "ema_robust_accuracy": accuracy.robust,
        "ema_parameters_sha256": parameters_sha256(model),
        **_compared(state, name),
    }


def _compared(state: TrainingState, best: str) -> dict[str, Any]:
    """Which of several averages was taken, and why; empty where there is one."""
    if state.guard is None or not state.guard.averages:
        return {}
    return {"ema_name": best, "ema_probe_robust_accuracies": state.guard.averages}


def judge_best(state: TrainingState, job: Job, judged: Path) -> dict[str, Any]:
    """What the result says of the best checkpoint; empty where none is selected.

    Every rank calls it; rank 0 alone needs to see the checkpoint.
    """
    guard = state.guard
    if guard is None or guard.selected_step is None:
        return {}
    step = guard.selected_step
    folder = checkpoint.checkpoint_folder(job.folder, step)
    name, saved = load_on_root(
        job.runtime, lambda: folder / "model.pt", checkpoint.load_networks
    )
    found: dict[str, Any] = {
        "best_step": step,
        "best_probe_robust_accuracy": guard.best_accuracy,
    }
    model = state.published_model()
    for kind, prefix in (("raw", "best_"), ("ema", "best_ema_")):
        if kind == "ema" and not checkpoint.average_updates(saved):
            continue
        weights = checkpoint.stored_weights(saved, name, kind)
        checkpoint.load_weights(model, weights, name)
        accuracy = evaluate_test_set(
            model, job.dataset, job.config, job.runtime, judged
        )
        found[f"{prefix}clean_accuracy"] = accuracy.clean
        found[f"{prefix}robust_accuracy"] = accuracy.robust
        found[f"{prefix}parameters_sha256"] = parameters_sha256(model)
    return found


def _draw(model: nn.Module, job: Job) -> None:
    rows = run_folder.read_metrics(job.folder)
    plot_training(rows, job.folder / "training.png")
    plot_trust_ratios(rows, job.folder / "trust_ratios.png")
    if job.config.objective.has_classes:
        picture, device = job.folder / "examples.png", job.runtime.device
        draw_examples(model, job.dataset, job.config, picture, device)


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
