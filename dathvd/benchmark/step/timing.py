"""How fast one device takes adversarial training steps, and how fast it could."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dathvd.benchmark.medians import spread
from dathvd.benchmark.step.trainers import Stopwatch, batch_plan, build_trainer
from dathvd.config import Config
from dathvd.convolutions import direct_sums
from dathvd.data import Dataset
from dathvd.training.batches import Batch
from dathvd.training.step import Trainer

# The product of square matrices of this size tells what each kind of device can do.
_MATRIX = {"cpu": 1536, "cuda": 8192}


@dataclass(frozen=True)
class StepTimes:
    """A configuration's step on one device; seconds are medians."""

    device: str
    num_threads: int
    batch_size: int
    num_steps: int
    step_seconds: float
    step_spread: float
    """Half the distance between the quartiles."""
    attack_seconds: float
    update_seconds: float
    images_per_second: float
    flops_per_image: float
    """Floating-point operations of matrix products and convolutions, counted as
    torch's operators ask for them (two for a multiply-add)."""
    flops_per_second: float
    matmul_flops_per_second: float
    """The device's own rate at large float32 matrix products, interleaved."""
    matmul_share: float
    """``flops_per_second`` as a share of ``matmul_flops_per_second``."""

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


def benchmark_step(
    config: Config,
    dataset: Dataset,
    device: torch.device,
    *,
    warmup: int = 2,
    repeats: int = 10,
) -> StepTimes:
    """Time steps of ``config`` on one device, nothing exchanged.

    Args:
        config: network, attack, objective, optimizer and batch size.
        dataset: what batches are cut from.
        device: CPU or GPU.
        warmup: steps before the first timed one.
        repeats: timed steps, at least 1; a matrix product is timed after each.
    """
    trainer = build_trainer(config, dataset, device)
    plan = batch_plan(config, dataset, device)
    watch = Stopwatch(device)
    trainer.mark = watch.mark
    batches = list(plan.step(0))
    watch.start()
    flops = count_flops(trainer, batches, config.optimizer.lr)
    steps: list[dict[str, float]] = []
    products: list[float] = []
    for index in range(warmup + repeats):
        batches = list(plan.step(index))
        watch.start()
        trainer.step(batches, config.optimizer.lr)
        steps.append(watch.seconds)
        products.append(matmul_flops_per_second(device))
    steps, products = steps[warmup:], products[warmup:]
    totals = [sum(step.values()) for step in steps]
    images = sum(len(batch.labels) for batch in batches)
    rate = flops / median(totals)
    return StepTimes(
        device=device_name(device),
        num_threads=torch.get_num_threads(),
        batch_size=images,
        num_steps=repeats,
        step_seconds=median(totals),
        step_spread=spread(totals),
        attack_seconds=median(step.get("attack", 0.0) for step in steps),
        update_seconds=median(
            step.get("update", 0.0) + step.get("exchange", 0.0) for step in steps
        ),
        images_per_second=images / median(totals),
        flops_per_image=flops / images,
        flops_per_second=rate,
        matmul_flops_per_second=median(products),
        matmul_share=rate / median(products),
    )


def count_flops(trainer: Trainer, batches: list[Batch], lr: float) -> int:
    """Take one step and count its floating-point operations.

    Convolutions count as direct sums, also where the attack computes them with fewer
    operations.
    """
    counter = _FlopCounter()
    with direct_sums(), counter:
        trainer.step(batches, lr)
    return counter.total


class _FlopCounter(TorchDispatchMode):
    """Sums torch's own formulas over all operators that run.

    torch's ``FlopCounterMode`` also follows modules by hooks, which refuse
    ``autograd.grad`` on inputs: the attack.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def matmul_flops_per_second(
    device: torch.device, dtype: torch.dtype = torch.float32
) -> float:
    """The device's rate at one large matrix product, now."""
    size = _MATRIX[device.type]
    left = torch.ones(size, size, device=device, dtype=dtype)
    watch = Stopwatch(device)
    out = left @ left
    watch.start()
    torch.mm(left, left, out=out)
    watch.mark("product")
    return 2 * size**3 / watch.total()


def device_name(device: torch.device) -> str:
    """The name of the device's model, for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "cpu"
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()
