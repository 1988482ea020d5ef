"""What each way to run the network is worth, on this machine.

    python -m dathvd.benchmark.step.attack_options --model preact_resnet18 --threads 2

takes whole training steps (attack, both passes of the objective, update) of every
variant in turn, so that what else the machine does hits all of them alike, and prints
the median seconds and the speed-up over the loop of the method's authors, by the clock
and by the processor time that the step used, ± half the distance of the quartiles over
the rounds, beside the rates of large matrix products.
"""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from dathvd.benchmark.medians import middle

if TYPE_CHECKING:
    from collections.abc import Callable

    from dathvd.config import Config

AUTHORS = "authors' loop"
PLAIN = {"channels_last": False, "fold_batch_norm": False, "winograd": False}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": (PLAIN, {"winograd": False}),
    "channels last": (PLAIN | {"channels_last": True}, {"winograd": False}),
    "folded batch norm": (PLAIN | {"fold_batch_norm": True}, {"winograd": False}),
    "Winograd": (PLAIN | {"winograd": True}, {"winograd": False}),
    "all of the attack": ({}, {"winograd": False}),
    "the default": ({}, {}),
    "bf16, direct": (
        {"precision": "bf16", "winograd": False},
        {"precision": "bf16", "winograd": False},
    ),
    "bf16": ({"precision": "bf16"}, {"precision": "bf16"}),
    "compiled attack": ({"compile": True}, {}),
}
"""Settings of the attack and of the training passes."""


@click.command()
@click.option("--model", default="preact_resnet18", show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--image-size", default=32, show_default=True)
@click.option("--steps", default=10, show_default=True, help="Steps of the attack.")
@click.option("--repeats", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--compile/--no-compile", "compiled", default=False, show_default=True)
@click.option("--only", multiple=True, help="A variant; again for more.")
def main(
    model: str,
    batch_size: int,
    image_size: int,
    steps: int,
    repeats: int,
    threads: int,
    compiled: bool,
    only: tuple[str, ...],
) -> None:
    """Print a table of variants, and the device's rates."""
    import torch

    from dathvd.benchmark.step.timing import matmul_flops_per_second

    torch.set_num_threads(threads)
    device = torch.device("cpu")
    configs = {
        name: _config(model, batch_size, image_size, steps, *options)
        for name, options in VARIANTS.items()
    }
    takers = {AUTHORS: _authors_step(configs["plain"])} | {
        name: _step(config)
        for name, config in configs.items()
        if (not only or name in only) and (compiled or not config.attack.compile)
    }
    clock, processor = _measure(takers, repeats)
    click.echo(f"{'':22}{'seconds':>9}{'speed-up':>15}{'by processor time':>22}")
    for name in takers:
        gains = [_gain(spent, name) for spent in (clock, processor)]
        words = "".join(f"{gain:15.2f} ±{spread:5.2f}" for gain, spread in gains)
        click.echo(f"{name:22}{median(clock[name]):9.3f}{words}")
    for dtype in (torch.float32, torch.bfloat16):
        rate = max(matmul_flops_per_second(device, dtype) for _ in range(3)) / 1e9
        name = f"{str(dtype).removeprefix('torch.')} products"
        click.echo(f"{name:22}{rate:9.0f}  GFLOP/s")


def _measure(
    takers: dict[str, Callable[[], None]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each, by the clock and of processor time, after one warm-up."""
    clock: dict[str, list[float]] = {name: [] for name in takers}
    processor: dict[str, list[float]] = {name: [] for name in takers}
    for round_number in range(repeats + 1):
        for name, take in takers.items():
            began = time.perf_counter(), time.process_time()
            take()
            if round_number:
                clock[name].append(time.perf_counter() - began[0])
                processor[name].append(time.process_time() - began[1])
    return clock, processor


def _gain(seconds: dict[str, list[float]], name: str) -> tuple[float, float]:
    """How many times as fast as the authors' loop, round by round, and the spread."""
    return middle([a / b for a, b in zip(seconds[AUTHORS], seconds[name])])


def _config(
    model: str,
    batch_size: int,
    image_size: int,
    steps: int,
    attack: dict[str, Any],
    train: dict[str, Any],
) -> Config:
    from dathvd.config import Config

    usual = {"epsilon": 8 / 255, "step_size": 2 / 255, "num_steps": steps}
    return Config.model_validate(
        {
            "data": {
                "name": "synthetic",
                "image_size": image_size,
                "channels": 3,
                "num_train": batch_size,
                "num_test": 1,
            },
            "model": {"name": model, "normalization": "batch"},
            "attack": usual | attack,
            "train": {"batch_size": batch_size} | train,
        }
    )


def _authors_step(config: Config) -> Callable[[], None]:
    """Takes one training step of the authors' loop, of a network of its own."""
    import torch

    from dathvd.benchmark.loops import authors_step
    from dathvd.models import build_model

    side = config.data.image_size or 32
    count = config.train.batch_size
    images, labels = torch.rand(count, 3, side, side), torch.arange(count) % 10
    model = build_model(config.model, (3, side, side), 10)
    step = authors_step(model, config.attack)
    return lambda: step(images, labels)


def _step(config: Config) -> Callable[[], None]:
    """Takes one training step of a network of its own."""
    import torch

    from dathvd.benchmark.step.trainers import batch_plan, build_trainer
    from dathvd.tasks import load_task

    dataset, device = load_task(config), torch.device("cpu")
    trainer = build_trainer(config, dataset, device)
    batches = list(batch_plan(config, dataset, device).step(0))
    return lambda: trainer.step(batches, config.optimizer.lr)


if __name__ == "__main__":
    main()
