"""``benchmark-step``: operations against closed forms, times against one another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from dathvd.benchmark.medians import spread
from dathvd.benchmark.step.timing import (
    benchmark_step,
    count_flops,
    matmul_flops_per_second,
)
from dathvd.benchmark.step.trainers import (
    Stopwatch,
    batch_plan,
    build_trainer,
    synthetic_data,
)
from dathvd.commands.benchmark_step import command
from dathvd.config import Config, load_config
from dathvd.data import load_dataset

BATCH, WIDTH = 8, 4
# the multilayer perceptron on 1x8x8 images: 64 -> 32 -> 32 -> 10
LAYERS = ((64, 8 * WIDTH), (8 * WIDTH, 8 * WIDTH), (8 * WIDTH, 10))
FORWARD = sum(2 * BATCH * fan_in * fan_out for fan_in, fan_out in LAYERS)
FIRST = 2 * BATCH * LAYERS[0][0] * LAYERS[0][1]
CPU = torch.device("cpu")


def config(*overrides: str) -> Config:
    chosen = ["model.name=mlp", f"model.width={WIDTH}", f"train.batch_size={BATCH}"]
    return synthetic_data(load_config(None, [*chosen, *overrides]), num_images=16)


def flops(*overrides: str) -> int:
    chosen = config(*overrides)
    dataset = load_dataset(chosen.data)
    plan = batch_plan(chosen, dataset, CPU)
    return count_flops(build_trainer(chosen, dataset, CPU), list(plan.step(0)), 0.1)


def test_a_plain_step_is_a_forward_and_two_backward_products_a_layer() -> None:
    # the first layer needs no gradient of its input
    assert flops("objective.name=plain", "attack.name=none") == 3 * FORWARD - FIRST


@pytest.mark.parametrize("steps", [1, 5])
def test_an_attack_step_is_a_forward_and_an_input_gradient(steps: int) -> None:
    attack = flops(f"attack.num_steps={2 + steps}") - flops("attack.num_steps=2")
    assert attack == steps * 2 * FORWARD


def test_rates_and_shares_agree_with_one_another() -> None:
    chosen = config()
    times = benchmark_step(chosen, load_dataset(chosen.data), CPU, warmup=1, repeats=3)
    assert times.images_per_second == pytest.approx(BATCH / times.step_seconds)
    assert times.flops_per_second == pytest.approx(
        times.flops_per_image * times.images_per_second
    )
    assert times.matmul_share * times.matmul_flops_per_second == pytest.approx(
        times.flops_per_second
    )
    assert 0 < times.attack_seconds < times.step_seconds
    assert times.num_steps == 3


def test_the_matrix_product_is_timed_and_not_only_submitted() -> None:
    # between a thousandth of a core and far beyond any CPU
    assert 1e8 < matmul_flops_per_second(CPU) < 1e14


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_same_operations_are_counted() -> None:
    chosen = config()
    dataset = load_dataset(chosen.data)
    gpu = benchmark_step(chosen, dataset, torch.device("cuda", 0), repeats=2)
    cpu = benchmark_step(chosen, dataset, CPU, repeats=2)
    assert gpu.flops_per_image == cpu.flops_per_image


def test_a_stopwatch_adds_phases_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 11.0, 13.0, 17.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    watch = Stopwatch(CPU)
    watch.start()
    for phase in ("attack", "update", "attack"):
        watch.mark(phase)
    assert watch.seconds == {"attack": 5.0, "update": 2.0}
    assert watch.total() == 7.0


def test_spread_is_half_the_distance_of_the_quartiles() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == 1.0
    assert spread([2.0]) == 0.0


def test_synthetic_data_have_the_shape_of_the_data_set_they_stand_for() -> None:
    digits = load_dataset(config().data)
    assert digits.image_shape == (1, 8, 8)
    folder = load_config(None, ["data.name=image_folder", "data.image_size=16"])
    shape = load_dataset(synthetic_data(folder, 4).data).image_shape
    assert shape == (3, 16, 16)


def test_the_command_writes_what_it_prints(tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    words = ["--set", "model.width=4", "--set", "train.batch_size=4"]
    words += ["--warmup", "0", "--repeats", "1", "--json", str(file)]
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    assert done.exit_code == 0
    row = json.loads(file.read_text(encoding="utf-8"))
    assert f"{row['images_per_second']:.4g} a second" in done.output
    assert row["batch_size"] == 4
