"""The table of methods and the table of large batches, on a folder of tiny images."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dathvd.benchmark.accuracy.comparison import VariantRow
from dathvd.benchmark.accuracy.labelled_share import choose_labelled, prepare
from dathvd.benchmark.accuracy.large_batch import RULES, points, variants
from dathvd.benchmark.accuracy.method_table import is_judged
from dathvd.benchmark.accuracy.methods import (
    AT,
    CONTRASTIVE,
    FGSM_RS,
    PLAIN,
    ROTATION,
    TRADES,
    longer,
)
from dathvd.config import DataConfig, load_config
from dathvd.data import load_dataset
from dathvd.errors import UserError
from dathvd.optim import scaled_lr
from tests.processes import DATHVD, run

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "cifar10" / "cpu_budget.yaml"
SMALL = [
    "model.width=2", "train.epochs=1", "train.batch_size=10", "attack.num_steps=1",
    "evaluation.batch_size=10", "evaluation.attack.num_steps=1",
    "evaluation.pictures=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of ten training and three test images of 8x8."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 3)):
        for kind in ("cat", "dog"):
            place = folder / part / kind
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(256, size=(8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def options(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.mark.slow
def test_methods_are_trained_and_judged(images: Path, tmp_path: Path) -> None:
    methods = ["AT", "pseudo-labels", "pre-trained"]
    methods += ["rotation-share", "contrastive-share"]
    command = [DATHVD, "benchmark-methods"]
    command += [*options(*SMALL), "--data", str(images)]
    command += ["--out", str(tmp_path), "--seeds", "0", "--labelled", "0.5"]
    command += ["--autoattack-samples", "0", "--samples", "6"]
    command += ["--methods", ",".join(methods)]
    # elsewhere than in a checkout: the default configuration comes along
    done = run(command, cwd=tmp_path, timeout=500)
    assert done.code == 0, done.output
    rows = json.loads((tmp_path / "methods.json").read_text())
    assert [row["method"] for row in rows] == methods
    assert [row["labelled"] for row in rows] == [None, 0.5, None, 0.5, 0.5]
    assert all(len(row["pgd"]) == 1 and row["train_seconds"] > 0 for row in rows)
    # as many steps each, whatever the methods train on
    steps = {
        name: json.loads((tmp_path / f"{name}-seed0/metrics.jsonl").read_text())["step"]
        for name in (
            "at", "teacher-0.5", "semi-supervised-0.5", "fine-tuned",
            "rotation-share-0.5", "contrastive-share-0.5",
        )  # fmt: skip
    }
    assert set(steps.values()) == {2}
    labels = np.load(tmp_path / "pseudo-labels-0.5-seed0.npz")["y_train"]
    assert len(labels) == 10
    assert all(name in done.stdout for name in methods)


@pytest.mark.parametrize(
    "settings", [AT, FGSM_RS, TRADES, PLAIN, ROTATION, CONTRASTIVE]
)
def test_settings_of_the_methods_are_valid(settings: tuple[str, ...]) -> None:
    for file in (CONFIG, ROOT / "configs" / "cifar10" / "paper_dat_pgd.yaml"):
        assert load_config(file, settings).attack.epsilon == 8 / 255


def test_runs_grow_with_their_schedules() -> None:
    config = load_config(ROOT / "configs" / "cifar10" / "paper_dat_pgd.yaml")
    changed = load_config(None, longer(config, 10))
    assert changed.train.epochs == 1050
    assert changed.schedule.milestones == (800, 950, 1000)
    assert changed.schedule.warmup_epochs == 50


def test_a_share_of_every_class_keeps_its_labels(images: Path, tmp_path: Path) -> None:
    config = DataConfig(name="image_folder", root=str(images))
    files = prepare(config, tmp_path, 0.3)
    assert (files.num_train, files.num_labelled) == (20, 6)
    few = load_dataset(DataConfig(name="arrays", root=str(files.labelled)))
    assert few.train.labels.tolist() == [0] * 3 + [1] * 3
    rest = np.load(files.unlabelled)
    assert rest.shape == (14, 3, 8, 8)
    whole = load_dataset(config)
    both = np.concatenate([few.train.batch(torch.arange(6)).numpy(), rest])
    own = whole.train.batch(torch.arange(20)).numpy()
    assert sorted(row.tobytes() for row in both) == sorted(row.tobytes() for row in own)
    # the first test images are of both classes
    assert len(few.test.labels[:4].unique()) == 2
    with pytest.raises(UserError, match="leaves no label of class 0"):
        choose_labelled(whole.train.labels, 0.01)


def test_another_data_set_is_not_mistaken_for_the_one_there(
    images: Path, tmp_path: Path
) -> None:
    config = DataConfig(name="image_folder", root=str(images))
    prepare(config, tmp_path, 0.3)
    prepare(config, tmp_path, 0.5)
    other = DataConfig(name="synthetic", num_train=20, num_test=6, num_classes=2)
    with pytest.raises(UserError, match="another data set .* choose another --out"):
        prepare(other, tmp_path, 0.3)


def test_a_judgement_of_as_many_images_is_kept(images: Path, tmp_path: Path) -> None:
    config = DataConfig(name="image_folder", root=str(images))
    files = prepare(config, tmp_path, 0.3)
    result = tmp_path / "result.json"
    assert not is_judged(result, 4, files)
    result.write_text('{"num_samples": 4}')
    assert [is_judged(result, asked, files) for asked in (3, 4, 5)] == [0, 1, 0]
    result.write_text('{"num_samples": 6}')  # all that there are
    assert [is_judged(result, asked, files) for asked in (5, 6, 1000)] == [0, 1, 1]


def test_batches_grow_and_rates_with_them() -> None:
    asked = variants(64, (1, 16), {"lamb": 0.01, "sgd": 0.1})
    assert [one.name for one in asked] == ["lamb-x1", "lamb-x16", "sgd-x1", "sgd-x16"]
    configs = [load_config(None, list(one.settings)) for one in asked]
    sizes = [config.train.batch_size for config in configs]
    assert sizes == [64, 1024, 64, 1024]
    rates = [scaled_lr(config.optimizer, size) for config, size in zip(configs, sizes)]
    assert rates == pytest.approx([0.01, 0.04, 0.1, 1.6])
    assert configs[1].train.backward_passes_per_step == 2
    robust = [(50.0, 52.0), (49.0, 50.0), (48.0, 50.0), (30.0, 34.0)]
    rows = [
        VariantRow(
            variant=one.name,
            settings=one.settings,
            seeds=(0, 1),
            clean=values,
            robust=values,
            num_workers=1,
            attack="PGD-20",
            train_seconds=1.0,
            bytes_sent=0.0,
        )
        for one, values in zip(asked, robust, strict=True)
    ]
    found = points(rows, 64, (1, 16))
    assert [point.optimizer for point in found] == ["lamb", "lamb", "sgd", "sgd"]
    assert [point.loss_to_base for point in found] == [0.0, 1.5, 0.0, 17.0]
    assert statistics.fmean(found[3].robust) == 32 and found[3].batch_size == 1024


@pytest.mark.slow
def test_the_table_of_large_batches(images: Path, tmp_path: Path) -> None:
    command = [DATHVD, "benchmark-batches", "--base", "5"]
    command += options(*SMALL, f"data.root={images}")
    command += ["--out", str(tmp_path), "--multiples", "1,4", "--seeds", "0"]
    # elsewhere than in a checkout: the default configuration comes along
    done = run(command, cwd=tmp_path, timeout=500)
    assert done.code == 0, done.output
    found = json.loads((tmp_path / "large_batch.json").read_text())
    assert [point["batch_size"] for point in found] == [5, 20, 5, 20]
    assert (tmp_path / "large_batch.png").read_bytes().startswith(b"\x89PNG")
    for rule in RULES.values():
        assert rule.label in done.stdout
