"""Accuracy of the training methods on one data set, each over several seeds.

All methods take the same number of steps, apart from the pre-training, which comes on
top of one of them. Called again it goes on where it was interrupted.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dathvd import run_folder
from dathvd.benchmark.accuracy.labelled_share import Files, prepare
from dathvd.benchmark.accuracy.method_rows import MethodRow, plot_shares, print_rows
from dathvd.config import Config, DataConfig, load_config
from dathvd.errors import TEMPORARY_FAILURE, UserError, choose
from dathvd.evaluation import Grid, Request, evaluate_checkpoint
from dathvd.files import write_json
from dathvd.lists import fractions, some_integers, words
from dathvd.pseudo_labels import pseudo_label
from dathvd.runtime import Runtime, from_root, guard, start, together
from dathvd.training.run import train

CONFIG = "cifar10/cpu_budget"
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


def write_data(
    config: DataConfig, folder: Path, share: float, runtime: Runtime
) -> Files:
    """The data set's files, written by rank 0; every rank calls it."""
    root = runtime.is_root
    files = together(runtime, lambda: prepare(config, folder, share) if root else None)
    sent = from_root(runtime, None if files is None else files.to_json())
    assert sent is not None
    return Files.from_json(sent)


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


def judge(run: Path, attack: str, samples: int, bench: Bench) -> dict[str, Any]:
    """The result of one attack on a run's first test images, computed once."""
    output = run / "evaluations" / attack
    if not from_root(bench.runtime, (output / "result.json").exists()):
        grid = Grid(attacks=(attack,), num_steps=(50,), restarts=1)
        request = Request(grid, max_samples=samples, trust=bench.trusted, output=output)
        evaluate_checkpoint(str(run), request, bench.runtime)
    text = (output / "result.json").read_text() if bench.runtime.is_root else "{}"
    return dict(json.loads(text))


def measure_methods(
    names: Sequence[str], benches: Sequence[Bench], samples: int, hard_samples: int
) -> list[MethodRow]:
    """Train and judge every method with every seed and share; every rank calls it.

    Args:
        names: the methods, keys of ``METHODS`` or ``SHARED``.
        benches: one for each seed and share, seed by seed.
        samples: test images of the clean and PGD-50 accuracy.
        hard_samples: test images of AutoAttack; 0 leaves it out.

    Returns:
        One row for each method, and share where it has one, on rank 0, and an empty
        list on the other ranks.
    """
    found: dict[tuple[str, float | None], dict[int, dict[str, Any]]] = {}
    for bench in benches:
        for name in names:
            seeds = found.setdefault(
                (name, bench.share if name in SHARED else None), {}
            )
            if bench.seed in seeds:
                continue
            bench.stages.clear()
            run = {**METHODS, **SHARED}[name](bench)
            pgd = judge(run, "pgd", samples, bench)
            hard = judge(run, "autoattack", hard_samples, bench) if hard_samples else {}
            if bench.runtime.is_root:
                seeds[bench.seed] = _entry(bench.stages, pgd, hard)
    if not benches[0].runtime.is_root:
        return []
    return [_row(name, share, entries) for (name, share), entries in found.items()]


def _entry(
    stages: Sequence[Path], pgd: dict[str, Any], hard: dict[str, Any]
) -> dict[str, Any]:
    results = [run_folder.read_result(run) or {} for run in stages]
    return {
        "clean": 100 * pgd["clean_accuracy"],
        "pgd": 100 * pgd["robust_accuracy"],
        "autoattack": 100 * hard["robust_accuracy"] if hard else None,
        "seconds": sum(result["train_seconds"] for result in results),
        "num_workers": results[-1]["num_workers"],
    }


def _row(
    name: str, share: float | None, by_seed: dict[int, dict[str, Any]]
) -> MethodRow:
    entries = list(by_seed.values())
    hard = [entry["autoattack"] for entry in entries]
    return MethodRow(
        name,
        tuple(by_seed),
        clean=tuple(entry["clean"] for entry in entries),
        pgd=tuple(entry["pgd"] for entry in entries),
        autoattack=tuple(value for value in hard if value is not None),
        train_seconds=statistics.fmean(entry["seconds"] for entry in entries),
        num_workers=entries[0]["num_workers"],
        labelled=share,
    )


def methods_table(
    config_file: str | None,
    overrides: tuple[str, ...],
    data: str | None,
    methods: str | None,
    seeds: str,
    labelled: str,
    samples: int,
    hard_samples: int,
    folder: Path,
) -> None:
    """Run ``dathvd benchmark-methods``, whose options the parameters are.

    Raises:
        UserError: an option is not valid, or the data set is not usable.
    """
    file = config_file or CONFIG
    names = list(words(methods)) or [*METHODS, *SHARED]
    for name in names:
        choose("--methods", name, {**METHODS, **SHARED})
    shares = list(some_shares(labelled))
    numbers = list(some_integers("--seeds", seeds))
    source = ("data.name=image_folder", f"data.root={data}") if data else ()
    config = load_config(file, [*overrides, *source])
    runtime = start(config.train.device)
    with guard(runtime):
        places = folder / "data"
        files = [write_data(config.data, places, share, runtime) for share in shares]
        benches = [
            Bench(file, overrides, each, folder, seed, runtime, share)
            for seed in numbers
            for share, each in zip(shares, files)
        ]
        rows = measure_methods(names, benches, samples, hard_samples)
        if rows:
            print_rows(rows, f"{file}, {len(numbers)} seeds: mean (lowest–highest)")
            write_json(folder / "methods.json", [asdict(row) for row in rows])
            if len(shares) > 1:
                plot_shares(rows, folder / "methods.png")


def some_shares(text: str) -> tuple[float, ...]:
    """The shares of labels of ``--labelled``, each above 0 and below 1.

    Raises:
        UserError: there is none, or one is out of its range.
    """
    shares = fractions("--labelled", text)
    for share in shares:
        if not 0 < share < 1:
            raise UserError(f"--labelled: must be above 0 and below 1, got {share:g}")
    if not shares:
        raise UserError(f"--labelled: expected shares such as 0.05,0.1, got {text!r}")
    return shares
