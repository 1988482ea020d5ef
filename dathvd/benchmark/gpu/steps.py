"""Whole training steps: this package's and others', in turns on the same images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dathvd.attacks import build_attack
from dathvd.benchmark.gpu.clock import in_turns
from dathvd.benchmark.gpu.rates import Rates
from dathvd.benchmark.loops import (
    authors_step,
    has_torchattacks,
    torchattacks_step,
)
from dathvd.benchmark.medians import middle
from dathvd.benchmark.step.timing import count_flops
from dathvd.config import Config, load_config
from dathvd.devices import set_up_device
from dathvd.models import build_model
from dathvd.noise import SampleNoise
from dathvd.objectives import build_objective
from dathvd.optim import build_optimizer
from dathvd.training.batches import Batch
from dathvd.training.passes import lay_out, training_pass
from dathvd.training.step import Totals, Trainer

OURS: dict[str, list[str]] = {
    "ours, fp32 launched": [
        "attack.cuda_graph=false",
        "attack.fold_batch_norm=false",
        "attack.channels_last=false",
        "train.channels_last=false",
    ],
    "ours, fp32": [],
    "ours, bf16": ["attack.precision=bf16", "train.precision=bf16"],
    "ours, bf16, fastest kernels": [
        "attack.precision=bf16",
        "train.precision=bf16",
        "train.deterministic=false",
    ],
    "ours, bf16, compiled": [
        "attack.precision=bf16",
        "train.precision=bf16",
        "train.deterministic=false",
        "attack.compile=true",
        "train.compile=true",
    ],
}
"""Settings by name; the last one compiles for a minute."""
AUTHORS, LIBRARY = "authors' loop", "torchattacks"


@dataclass(frozen=True)
class Case:
    """A network, its images and its attack."""

    model: str
    image_size: int
    batch_size: int
    num_classes: int
    attack: str
    """pgd (10 steps) or fgsm_rs."""

    @property
    def name(self) -> str:
        """For people."""
        attack = {"pgd": "PGD-10", "fgsm_rs": "FGSM-RS"}[self.attack]
        size = f"{self.image_size}x{self.image_size}"
        return f"{self.model}, {size}, {attack}, batch {self.batch_size}"

    def config(self, overrides: list[str]) -> Config:
        """The configuration of this package's step."""
        epsilon = "8/255" if self.image_size < 64 else "2/255"
        own = [
            f"model.name={self.model}",
            f"attack.name={self.attack}",
            f"attack.epsilon={epsilon}",
            "attack.step_size=2/255",
            "attack.num_steps=10",
            "optimizer.name=lamb",
            f"objective.clean_weight={float(self.attack == 'pgd')}",
        ]
        return load_config(None, [*own, *overrides])


CASES = [
    Case("preact_resnet18", 32, 512, 10, "pgd"),
    Case("resnet50", 224, 128, 1000, "pgd"),
    Case("wide_resnet_28_10", 32, 256, 10, "pgd"),
    Case("preact_resnet18", 32, 512, 10, "fgsm_rs"),
    Case("wide_resnet_28_10", 32, 256, 10, "fgsm_rs"),
    Case("resnet50", 224, 128, 1000, "fgsm_rs"),
]
TINY = [replace(case, batch_size=2, image_size=8) for case in CASES[:1]]


@dataclass(frozen=True)
class StepRow:
    """One loop in one case."""

    case: str
    loop: str
    images_per_second: float
    spread: float
    """Half the distance of the quartiles over the median."""
    speedup: float
    """Over the authors' loop."""
    flops_per_second: float
    """Of matrix products and convolutions, as torch's operators ask for them."""
    bf16_share: float
    """The same as a share of the measured bf16 rate."""
    peak_megabytes: float
    """Device memory that the loop had allocated at most, its weights included."""

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


def measure_case(
    case: Case,
    device: torch.device,
    rates: Rates,
    *,
    loops: list[str],
    rounds: int = 5,
    repeats: int = 2,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[StepRow]:
    """Rows of all loops that run here; a loop that fails is told of and left out."""
    images, labels = _batch(case, device)
    model = _model(case, device)
    flops = _flops(case, model, images, labels)
    subjects: dict[str, Callable[[], object]] = {}
    peaks: dict[str, float] = {}
    for name in loops:
        before = _allocated(device)
        try:
            work = _subject(name, case, model, images, labels)
            for _ in range(3):
                work()
            peaks[name] = (_allocated(device, peak=True) - before) / 1e6
            subjects[name] = work
        except Exception as error:  # a benchmark tells of it and goes on
            say(f"{case.name}: {name}: {type(error).__name__}: {error}")
    times = in_turns(subjects, device, warmup=1, rounds=rounds, repeats=repeats)
    base = middle(times[AUTHORS])[0] if AUTHORS in times else float("nan")
    for name, values in times.items():
        time, spread = middle(values)
        yield StepRow(
            case=case.name,
            loop=name,
            images_per_second=len(images) / time,
            spread=spread / time,
            speedup=base / time,
            flops_per_second=flops / time,
            bf16_share=flops / time / rates.bf16_flops,
            peak_megabytes=peaks[name],
        )


def _subject(
    name: str, case: Case, model: nn.Module, images: Tensor, labels: Tensor
) -> Callable[[], object]:
    own = copy.deepcopy(model).train()
    if name in OURS:
        config = case.config(OURS[name])
        trainer = trainer_of(own, config)
        batch = _own_batch(images, labels)

        def ours() -> None:
            set_up_device(images.device, config.train)
            trainer.step([batch], config.optimizer.lr)

        return ours
    build = {AUTHORS: authors_step, LIBRARY: torchattacks_step}[name]
    step = build(own, case.config([]).attack)

    def theirs() -> None:
        _torchs_defaults()
        step(images, labels)

    return theirs


def trainer_of(model: nn.Module, config: Config) -> Trainer:
    """A trainer of one worker that exchanges nothing."""
    lay_out(model, config.train)
    device = next(model.parameters()).device
    return Trainer(
        model,
        build_attack(config.attack),
        build_objective(config.objective),
        build_optimizer(config.optimizer, list(model.named_parameters())),
        Totals.zero(device),
        network=training_pass(model, config.train),
    )


def available_loops(*, compiled: bool) -> list[str]:
    """The loops that this machine can run."""
    names = [AUTHORS, *([LIBRARY] if has_torchattacks() else []), *OURS]
    return [name for name in names if compiled or not name.endswith("compiled")]


def _torchs_defaults() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.benchmark = False


def _model(case: Case, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    shape = (3, case.image_size, case.image_size)
    return build_model(case.config([]).model, shape, case.num_classes).to(device)


def _batch(case: Case, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (case.batch_size, 3, case.image_size, case.image_size)
    images = torch.rand(shape, generator=generator)
    labels = torch.randint(case.num_classes, (case.batch_size,), generator=generator)
    return images.to(device), labels.to(device)


def _own_batch(images: Tensor, labels: Tensor) -> Batch:
    places = torch.arange(len(images), device=images.device)
    return Batch(images, labels, SampleNoise(0, places), share=1.0)


def _flops(case: Case, model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Of one step; the same for all loops but the authors' single-step attack."""
    count = min(len(images), 4)
    trainer = trainer_of(copy.deepcopy(model).train(), case.config([]))
    few = _own_batch(images[:count], labels[:count])
    return count_flops(trainer, [few], lr=0.0) * len(images) // count


def _allocated(device: torch.device, peak: bool = False) -> float:
    if device.type != "cuda":
        return 0.0
    if peak:
        return float(torch.cuda.max_memory_allocated(device))
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return float(torch.cuda.memory_allocated(device))
