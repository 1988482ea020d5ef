"""A package of components outside of the tree, and settings that name them."""

from __future__ import annotations

import shutil
from pathlib import Path

SOURCE = Path(__file__).parent / "outside"
COMPONENTS = {
    "model": "outside.nets:make_network",
    "data": "outside.sets:stripes",
    "attack": "outside.attacks:Corner",
    "evaluation.attack": "outside.attacks:Corner",
    "objective": "outside.losses:Focal",
    "compression": "outside.codecs:Shortened",
    "optimizer": "outside.updates:SignDescent",
}
OPTIONS = {
    "model": "{hidden: 40}",
    "data": "{count: 48}",
    "attack": "{stream: 3}",
    "objective": "{gamma: 1.5}",
    "compression": "{dropped: 12}",
    "optimizer": "{decay: 0.25}",
}


def write_package(folder: Path) -> Path:
    """Copy the package there; the folder, to be put on the path."""
    shutil.copytree(SOURCE, folder / "outside")
    return folder


def settings(**changes: str) -> list[str]:
    """``section.field=value`` of a short run made of the package's components."""
    names = {f"{section}.name": place for section, place in COMPONENTS.items()}
    options = {f"{section}.options": value for section, value in OPTIONS.items()}
    short = {
        "train.epochs": "2",
        "train.batch_size": "16",
        "attack.epsilon": "0.05",
        "compression.warmup": "0",
        "optimizer.lr": "0.003",
    }
    tree = {**names, **options, **short, **changes}
    return [f"{field}={value}" for field, value in tree.items()]


def as_arguments(overrides: list[str]) -> list[str]:
    """Those settings on a command line."""
    return [word for override in overrides for word in ("--set", override)]
