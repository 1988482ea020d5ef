"""The features of a run and their values, read from the registries and configs.

An attack, objective, optimizer, codec or policy that is registered enters by itself.
Networks enter by kind: the smallest of each kind stands for all of it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dathvd.attacks import ATTACKS
from dathvd.components import ERASURES, MIXES
from dathvd.compression import COMPRESSORS
from dathvd.config import AttackConfig, Config, TrainConfig, load_config
from dathvd.config.guard import GuardConfig
from dathvd.errors import UserError
from dathvd.models import MODELS, StochasticDepth, build_model
from dathvd.objectives import OBJECTIVES
from dathvd.optim import OPTIMIZERS
from tests.parallel.crossings.networks import CONVNEXT, DROPOUT

SHAPE = (3, 8, 8)
"""Channels, height and width of the images of all trials."""
RADII = {"l1": ("attack.epsilon=3.0",)}
"""What norms say of their radius, where the default would change nothing."""
LIVES = ("1", "1+1", "2", "2+2", "1+2", "2+1")
"""Workers of a run: without a stop, or before and after one."""


@dataclass(frozen=True)
class Value:
    """One value of a feature."""

    name: str
    overrides: tuple[str, ...] = ()
    """What it says on the command line, without ``--set``."""
    same_for_any_workers: bool = True
    """The update is promised not to depend on how workers share a batch."""

    @property
    def words(self) -> set[str]:
        """What a refusal may call it by."""
        names = {each.split("=")[0].rsplit(".", 1)[-1] for each in self.overrides}
        return names | {each.split("=")[1] for each in self.overrides} - {"name"}


Row = dict[str, str]
"""A value's name for every feature."""


def _literal(section: Any, field: str) -> tuple[str, ...]:
    """The choices of a configuration's field."""
    return get_args(section.model_fields[field].annotation)


def _attack(name: str) -> Value:
    overrides = [f"attack.name={name}"]
    try:  # an attack that replays batches is tried with replays
        load_config(None, [*overrides, "attack.replays=2"])
        overrides.append("attack.replays=2")
    except UserError:
        pass
    return Value(name, tuple(overrides))


def _objective(name: str, extra: str) -> Value:
    overrides = [f"objective.name={name}"]
    if name == "hat":
        overrides.append(f"objective.helper={Path(extra).with_name('helper')}")
    return Value(name, tuple(overrides), name != "contrastive")


def kind_of(network: nn.Module) -> str:
    """What decides how a network can go wrong."""
    modules = list(network.modules())
    found = {
        "batch norm": any(isinstance(module, _BatchNorm) for module in modules),
        "randomness by sample": any(isinstance(m, StochasticDepth) for m in modules),
        "randomness": any("Dropout" in type(module).__name__ for module in modules),
    }
    return " and ".join([name for name, has in found.items() if has] or ["plain"])


@functools.cache
def network_kinds() -> list[Value]:
    """The smallest network of every kind."""
    found: dict[str, tuple[int, Value]] = {}
    for name in (*MODELS, CONVNEXT, DROPOUT):
        for normalization in ("null", "batch"):
            overrides = (f"model.name={name}", f"model.normalization={normalization}")
            try:
                config = load_config(None, [*overrides, "model.width=8"]).model
                with torch.device("meta"):
                    network = build_model(config, SHAPE, 10)
            except UserError:
                continue  # it has no such layers
            kind = kind_of(network)
            size = sum(weight.numel() for weight in network.parameters())
            value = Value(kind, overrides, "randomness" not in kind.split(" and "))
            if kind not in found or size < found[kind][0]:
                found[kind] = size, value
    return [value for kind, (_, value) in sorted(found.items())]


@functools.cache
def features(extra: str = "EXTRA") -> dict[str, dict[str, Value]]:
    """Every feature's values by name.

    Args:
        extra: the file of extra images.
    """
    values: dict[str, list[Value]] = {
        "attack": [_attack(name) for name in ATTACKS],
        "loss": [
            Value(name, (f"attack.loss={name}",))
            for name in _literal(AttackConfig, "loss")
        ],
        "norm": [
            Value(name, (f"attack.norm={name}", *RADII.get(name, ())))
            for name in _literal(AttackConfig, "norm")
        ],
        "union": [
            Value("none"),
            *(
                Value(
                    name,
                    ("attack.balls={linf: 0.17, l1: 3.0}", f"attack.combine={name}"),
                )
                for name in _literal(AttackConfig, "combine")
            ),
        ],
        "mode": [
            Value(name, (f"attack.model_mode={name}",))
            for name in _literal(AttackConfig, "model_mode")
        ],
        "objective": [_objective(name, extra) for name in OBJECTIVES],
        "weights": [
            Value("still"),
            Value("perturbed", ("objective.weight_perturbation=0.01",), False),
        ],
        "optimizer": [Value(name, (f"optimizer.name={name}",)) for name in OPTIMIZERS],
        # every codec by every exchange is under the laws of the exchanges
        "codec": [
            Value(name, (f"compression.name={name}",), name == "none")
            for name in COMPRESSORS
        ],
        "exchange": [
            Value(name, (f"compression.exchange={name}",))
            for name in dict.fromkeys(
                name for codec in COMPRESSORS.values() for name in codec().exchanges
            )
        ],
        "overlap": [
            Value(name, (f"train.overlap={name}",))
            for name in _literal(TrainConfig, "overlap")
        ],
        "passes": [
            Value(str(count), (f"train.backward_passes_per_step={count}",))
            for count in (1, 2)
        ],
        "batch norm": [
            Value(name, (f"train.batch_norm={name}",))
            for name in _literal(TrainConfig, "batch_norm")
        ],
        "average": [
            Value("none"),
            Value("ema", ("train.ema_decay=0.9",)),
            Value("several", ("train.ema_decay=[0.5, 0.9]", "train.swa_start=1")),
        ],
        "guard": [
            Value(name, (f"train.guard.action={name}",))
            for name in _literal(GuardConfig, "action")
        ],
        "select": [
            Value(name, (f"train.select={name}",))
            for name in _literal(TrainConfig, "select")
        ],
        "stationarity": [
            Value("unmeasured"),
            Value("measured", ("train.stationarity.every=2",)),
        ],
        "extra": [
            Value("none"),
            Value("shuffled", (f"data.extra={extra}",)),
            Value(
                "mixed",
                (
                    f"data.extra={extra}",
                    "data.extra_ratio=0.5",
                    "data.extra_weight=0.5",
                ),
            ),
        ],
        "mix": [
            Value("none"),
            Value("rand augment", ("data.augment=true", "data.rand_augment=2")),
            *(
                Value(name, (f"data.mix={name}", f"data.erase={erase}"))
                for name, erase in zip(MIXES, ERASURES, strict=False)
            ),
        ],
        "aligned": [Value("none"), Value("some", ("objective.grad_align=0.2",))],
        "noise": [Value("none"), Value("some", ("data.noise=0.1",))],
        "clipping": [
            Value("none"),
            Value("short", ("optimizer.max_gradient_norm=0.1",)),
        ],
        "step": [Value("all finite"), Value("one skipped")],
        "life": [Value(life) for life in LIVES],
        "network": network_kinds(),
    }
    return {
        feature: {value.name: value for value in entries}
        for feature, entries in values.items()
    }


def configure(row: Row, more: tuple[str, ...] = (), extra: str = "EXTRA") -> Config:
    """The configuration of a row; features that it leaves out keep their defaults.

    Raises:
        UserError: two of its values are refused together.
    """
    table = features(extra)
    chosen = [table[feature][name] for feature, name in row.items()]
    overrides = [text for value in chosen for text in value.overrides]
    return load_config(None, [*BASE, *overrides, *more])


BASE = (
    "data.name=arrays", "data.channels=3", "model.width=8", "attack.num_steps=2",
    "attack.step_size=0.1", "train.epochs=3", "train.batch_size=12",
    "train.log_every=2", "train.checkpoint_every=1", "train.keep_checkpoints=99",
    "train.guard.num_samples=6", "train.guard.num_steps=1", "objective.dimension=8",
    "train.stationarity.num_samples=6", "train.stationarity.group_size=2",
    "train.stationarity.num_steps=1",
    "schedule.name=constant", "schedule.warmup_epochs=0",
    "optimizer.eps=1e-3", "optimizer.adapt_vectors=false",
    "evaluation.attack.num_steps=1", "evaluation.attack.restarts=1",
    "evaluation.max_samples=8", "train.device=cpu",
)  # fmt: skip
"""Two steps an epoch where nothing else is said, three epochs. Rounding decides no
step: a bias before batch norm has a gradient of rounding errors alone, which trust
ratios and a small ``eps`` would make a step like any other of."""
