"""Trains a few steps of every shipped configuration on stand-in data.

Called with a folder to work in and the configurations, in the order in which they
build on one another. What a configuration says is kept, apart from data and sizes; its
network is built in full size, without memory, and a small one stands in for it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from dathvd.components import NETWORKS
from dathvd.config import Config, load_config
from dathvd.evaluation import evaluate_test_set
from dathvd.models import build_model
from dathvd.runtime import Runtime, guard, start
from dathvd.tasks import load_task
from dathvd.training.batches import plan_of
from dathvd.training.saving import save
from dathvd.training.workers import build_state
from dathvd.weight_files import names_a_file
from tests.saved_network import save_network

STEPS = 2
SMALL = NETWORKS.places["small_resnet"]
SIZES = [
    "train.batch_size=4", "train.epochs=1", "evaluation.batch_size=2",
    "evaluation.max_samples=2", "evaluation.attack.num_steps=1", "model.width=4",
    "evaluation.pictures=false",
]  # fmt: skip


def stand_ins(folder: Path) -> None:
    """Image files of two classes, and extra images."""
    random = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 1)):
        for kind in ("cat", "dog"):
            place = folder / "imagenet" / part / kind
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(256, size=(50, 60, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.jpg")
    extra = random.integers(256, size=(8, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "extra.npz", x_train=extra, y_train=np.arange(8))
    save_network(folder / "helper", (3, 8, 8), 10)
    with patch.dict(NETWORKS.places, {"preact_resnet18": SMALL}):
        robust = ("model.name=preact_resnet18", "model.width=4")
        save_network(folder / "runs" / "robust", (3, 8, 8), 10, *robust)


def overrides(config: Config, folder: Path) -> list[str]:
    """Stand-in data of the right kind in place of the real one."""
    if config.data.name == "image_folder":
        changes = [f"data.root={folder}/imagenet", "data.image_size=40"]
        changes += ["data.crop_size=32"]
        changes += [f"data.cache={folder}/cache"] if config.data.cache else []
    else:
        changes = ["data.name=synthetic", "data.image_size=8"]
        changes += ["data.num_train=8", "data.num_test=2"]
    if config.data.extra is not None:
        changes.append(f"data.extra={folder}/extra.npz")
    if config.model.init is not None and names_a_file(config.model.init):
        changes.append("model.init=null")  # of a large network
    elif config.model.init is not None:
        changes.append(f"model.init={folder}/{config.model.init}")
    if config.train.swa_start is not None:
        changes.append("train.swa_start=0")
    if config.objective.helper is not None:
        changes.append(f"objective.helper={folder}/helper")
    return [*SIZES, *changes]


def train_a_little(path: Path, folder: Path, runtime: Runtime) -> None:
    """Some steps, an evaluation, and a checkpoint where another run starts from it."""
    config = load_config(path, overrides(load_config(path), folder))
    with torch.device("meta"):
        build_model(config.model, (3, 224, 224), num_classes=10)
    dataset = load_task(config)
    # the small network stands for the large one, without options of its own
    plain = config.model.model_copy(update={"options": {}})
    with patch.dict(NETWORKS.places, {config.model.name: SMALL}):
        state = build_state(
            config.model_copy(update={"model": plain}), dataset, runtime
        )
    plan = plan_of(config, dataset, runtime.device, runtime.rank, runtime.size)
    for step in range(STEPS):
        state.trainer.step(list(plan.step(step)), lr=1e-3)
    assert state.exchanger.skipped == 0
    assert bool(state.trainer.totals.sums.isfinite().all())
    accuracy = evaluate_test_set(state.published_model(), dataset, config, runtime)
    assert accuracy.num_samples == 2
    if config.objective.is_self_supervised:
        name = "pretrain" if config.objective.name == "rotation" else "contrastive"
        save(state, folder / "runs" / name, runtime)


def main(folder: Path, paths: list[Path]) -> None:
    stand_ins(folder)
    runtime = start("cpu")
    torch.set_num_threads(1)
    with guard(runtime):
        for path in paths:
            began = time.monotonic()
            train_a_little(path, folder, runtime)
            print(f"trained {path} ({time.monotonic() - began:.1f} s)", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
