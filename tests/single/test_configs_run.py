"""Every shipped configuration trains; the paper's have its learning rates."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dathvd.config import Config, load_config
from dathvd.optim import learning_rate
from tests.processes import run

ROOT = Path(__file__).parents[2]
PATHS = sorted((ROOT / "configs").glob("*/*.yaml"))
PAPER = [path for path in PATHS if path.stem.startswith("paper")]


def needs(path: Path) -> bool:
    """Whether it starts from another one's run."""
    return load_config(path).model.init is not None


@pytest.mark.slow
def test_every_configuration_trains_some_steps(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("configs_worker.py")
    paths = sorted(PATHS, key=needs)
    env = {"PYTHONPATH": str(ROOT)}
    done = run([sys.executable, worker, tmp_path, *paths], env=env, timeout=300)
    assert done.code == 0, done.output
    assert done.stdout.count("trained ") == len(PATHS) > 15, done.output


def rate(config: Config, epoch: int) -> float:
    """The learning rate of an epoch's first step, ten steps each."""
    return learning_rate(
        config.optimizer,
        config.schedule,
        step=10 * epoch,
        steps_per_epoch=10,
        num_steps=10 * config.train.epochs,
        batch_size=config.train.batch_size,
    )


@pytest.mark.parametrize(
    "path", PAPER, ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_the_papers_rates(path: Path) -> None:
    config = load_config(path)
    peak = 0.01 if config.optimizer.name == "lamb" else 0.1
    epochs, marks = (100, (75, 90, 95)) if "cifar" in str(path) else (30, (20, 25, 28))
    assert config.train.epochs == 5 + epochs
    assert rate(config, 0) == pytest.approx(peak / 50)
    assert rate(config, 5) == rate(config, 4 + marks[0]) == peak
    for power, mark in enumerate(marks, 1):
        assert rate(config, 5 + mark) == pytest.approx(peak * 0.1**power)
