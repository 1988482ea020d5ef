"""The training methods that are compared: each trains what it needs.

All take the same number of steps, apart from the pre-training, which comes on top of
one of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dathvd.benchmark.accuracy.labelled_share import Files
from dathvd.config import Config, load_config
from dathvd.errors import TEMPORARY_FAILURE
from dathvd.pseudo_labels import pseudo_label
from dathvd.runtime import Runtime, from_root
from dathvd.training.run import train

EXTRA_RATIO = 0.5
PRETRAIN_SHARE = 0.25
"""Epochs of pre-training as a share of those of training. An epoch of pre-training sees
every image in all four rotations."""
CONTRASTIVE_SHARE = 0.5
"""The same where an epoch sees two views of every image."""
_PGD = ("attack.name=pgd", "attack.loss=cross_entropy")
AT = (*_PGD, "objective.name=adversarial", "objective.clean_weight=0.0")
FGSM_RS = ("attack.name=fgsm_rs", *AT[1:])
TRADES = ("attack.name=pgd", "attack.loss=kl", "objective.name=trades")
PLAIN = ("attack.name=none", "objective.name=plain")
ROTATION = (*_PGD, "objective.name=rotation", "objective.clean_weight=1.0")
CONTRASTIVE = (
    *_PGD,
    "objective.name=contrastive",
    "objective.clean_weight=1.0",
    "model.head=projection",
)


@dataclass
class Bench:
    """Trains the runs of one seed, each in a folder of its own."""

    config_file: str
    overrides: tuple[str, ...]
    files: Files
    folder: Path
    seed: int
    runtime: Runtime
    share: float
    """The share of images that keep their labels in ``files``."""
    stages: list[Path] = field(default_factory=list)
    """The runs that the present method has needed so far."""

    def train(
        self, name: str, *settings: str, epochs: float = 1.0, few: bool = False
    ) -> Path:
        """Train a run to its end, unless it is finished, and return its folder.

        Args:
            name: the name of the run's folder.
            settings: the ``section.field=value`` that the run changes.
            epochs: the run's epochs, as a multiple of the table's.
            few: train on the labelled share alone, of which ``epochs`` then counts the
                passes.
        """
        root = self.files.labelled if few else self.files.whole
        common = load_config(self.config_file, self.overrides)
        changes = [
            *("data.name=arrays", f"data.root={root}", "data.cache=null"),
            *longer(common, epochs),
            *settings,
            f"seed={self.seed}",
        ]
        run = self.folder / self.name(name, few)
        config = load_config(self.config_file, [*self.overrides, *changes])
        if not train(config, run, self.runtime):
            sys.exit(TEMPORARY_FAILURE)
        self.stages.append(run)
        return run

    def name(self, what: str, few: bool) -> str:
        """What a run or a file of this seed is called, and of this share if ``few``."""
        share = f"-{self.share:g}" if few else ""
        return f"{what}{share}-seed{self.seed}"

    @property
    def trusted(self) -> list[str]:
        """The components outside of dathvd that the table's configuration names."""
        return list(load_config(self.config_file, self.overrides).foreign().values())

    @property
    def few_epochs(self) -> float:
        """Passes over the labelled share in as many steps as one over everything."""
        return self.files.num_train / self.files.num_labelled


def longer(config: Config, factor: float) -> list[str]:
    """Settings that stretch a run and its schedule."""
    marks = [round(factor * mark) for mark in config.schedule.milestones]
    return [
        f"train.epochs={max(1, round(factor * config.train.epochs))}",
        f"schedule.warmup_epochs={factor * config.schedule.warmup_epochs}",
        f"schedule.milestones={marks}",
    ]


def pseudo_labelled(bench: Bench) -> Path:
    """A plain network of the labelled share labels the rest for the robust one."""
    teacher = bench.train("teacher", *PLAIN, epochs=bench.few_epochs, few=True)
    labels = bench.folder / (bench.name("pseudo-labels", few=True) + ".npz")
    there = from_root(bench.runtime, labels.exists())
    if not there:
        pseudo_label(
            str(teacher),
            bench.files.unlabelled,
            labels,
            bench.runtime,
            trust=bench.trusted,
        )
    return bench.train(
        "semi-supervised",
        *AT,
        f"data.extra={labels}",
        f"data.extra_ratio={EXTRA_RATIO}",
        epochs=bench.few_epochs * (1 - EXTRA_RATIO),
        few=True,
    )


def rotation(bench: Bench) -> Path:
    """Pre-training that finds how images were turned, under attack; without labels."""
    return bench.train("rotation", *ROTATION, epochs=PRETRAIN_SHARE)


def contrastive(bench: Bench) -> Path:
    """Pre-training that finds an image's other view, under attack; without labels."""
    return bench.train("contrastive", *CONTRASTIVE, epochs=CONTRASTIVE_SHARE)


def fine_tuned(bench: Bench, name: str, first: Path) -> Path:
    """Adversarial training of all weights of ``first`` on the labelled share."""
    start = f"model.init={first}"
    return bench.train(name, *AT, start, epochs=bench.few_epochs, few=True)


METHODS: dict[str, Callable[[Bench], Path]] = {
    "AT": lambda bench: bench.train("at", *AT),
    "FGSM-RS": lambda bench: bench.train("fgsm-rs", *FGSM_RS),
    "TRADES": lambda bench: bench.train("trades", *TRADES),
    "pre-trained": lambda bench: bench.train(
        "fine-tuned", *AT, f"model.init={rotation(bench)}"
    ),
}
"""The methods with all labels by name: each trains what it needs and returns the run
that is judged."""
SHARED: dict[str, Callable[[Bench], Path]] = {
    "labelled-share": lambda bench: bench.train(
        "labelled-share", *AT, epochs=bench.few_epochs, few=True
    ),
    "pseudo-labels": pseudo_labelled,
    "rotation-share": lambda bench: fine_tuned(
        bench, "rotation-share", rotation(bench)
    ),
    "contrastive-share": lambda bench: fine_tuned(
        bench, "contrastive-share", contrastive(bench)
    ),
}
"""The methods with a share of the labels, trained once for each share."""
