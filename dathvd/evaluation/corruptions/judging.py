"""Accuracy on corrupted test images, sharded over workers and resumable."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from dathvd.attacks.attack import correct_on
from dathvd.attacks.probes import Probe, right_on_clean
from dathvd.components import CORRUPTIONS
from dathvd.config import Config
from dathvd.data import Dataset, ImageSet
from dathvd.data.corrupted import check_corrupted, corrupted_images, kinds_in
from dathvd.errors import choose
from dathvd.evaluation.corruptions.kind import SEVERITIES, corrupt
from dathvd.evaluation.identity import identify
from dathvd.evaluation.judge import CLEAN, Judge
from dathvd.evaluation.store import Store
from dathvd.noise import SampleNoise
from dathvd.runtime import Runtime, together

ALL = "all"
Accuracies = dict[str, dict[str, float]]
"""Kind to severity, as text, to the share of images that the network gets right."""


@dataclass(frozen=True)
class CorruptionRequest:
    """Which corrupted images are judged."""

    kinds: tuple[str, ...] = (ALL,)
    """Names, or ``all`` that can be computed or that the folder holds."""
    severities: tuple[int, ...] = SEVERITIES
    folder: Path | None = None
    """CIFAR-10-C's or ImageNet-C's, whose images are read; None computes them."""

    def chosen(self) -> list[str]:
        """The kinds by name.

        Raises:
            UserError: the folder is none, or there is no such kind.
        """
        known = list(CORRUPTIONS) if self.folder is None else kinds_in(self.folder)
        if ALL in self.kinds:
            return known
        for name in self.kinds:
            choose("--corruptions", name, dict.fromkeys(known))
        return list(self.kinds)

    def check(self, dataset: Dataset) -> None:
        """See that all kinds are there, before anything is judged.

        Raises:
            UserError: one is not, or not of the data set's shape and classes.
        """
        kinds = self.chosen()
        if self.folder is not None:
            shape = dataset.image_shape
            for kind in kinds:
                check_corrupted(
                    self.folder, kind, self.severities, dataset.classes, shape
                )


def judge_corruptions(
    request: CorruptionRequest,
    model: nn.Module,
    dataset: Dataset,
    config: Config,
    runtime: Runtime,
    *,
    output: Path | None = None,
    on_part: Callable[[int, int], None] | None = None,
) -> Accuracies:
    """The accuracies; every rank calls it and has them.

    Args:
        request: kinds, severities and where the images are from.
        model: from images in [0, 1] to logits.
        dataset: whose test images are corrupted, or whose classes the folder has.
        config: seed and sizes.
        runtime: this worker's place.
        output: keeps what is judged, so that the same call goes on.
        on_part: called with (parts done, parts in all) of this worker.

    Raises:
        UserError: on every rank: there is no such kind, or no such images.
    """
    kinds = together(runtime, request.chosen)

    def judge(images: ImageSet, name: str, probes: Mapping[str, Probe]) -> Tensor:
        folder = None if output is None else output / "corruptions" / name
        identity = identify(model, images, config)
        judge = Judge(
            images,
            runtime,
            batch_size=config.evaluation.batch_size,
            seed=config.seed,
            max_samples=config.evaluation.max_samples,
            store=None if folder is None else Store(folder, identity),
            on_part=on_part,
        )
        return judge(model, probes).double().mean(dim=1)

    found: Accuracies = {name: {} for name in kinds}
    cells = [(name, severity) for name in kinds for severity in request.severities]
    if request.folder is None:
        probes = {f"{name}-{s}": corrupted_probe(name, s) for name, s in cells}
        shares = judge(dataset.test, "computed", probes).tolist()
        for (name, severity), share in zip(cells, shares, strict=True):
            found[name][str(severity)] = share
        return found
    for name, severity in cells:
        read = functools.partial(
            corrupted_images,
            request.folder,
            name,
            severity,
            dataset.classes,
            dataset.image_shape,
        )
        images = together(runtime, read)
        share = judge(images, f"{name}-{severity}", {CLEAN: right_on_clean})
        found[name][str(severity)] = float(share[0])
    return found


def corrupted_probe(name: str, severity: int) -> Probe:
    """Whether the model is right on the image once it is corrupted."""

    def probe(
        model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Tensor:
        return correct_on(model, corrupt(name, severity, images, noise), labels)

    return probe


def mean_accuracy(found: Accuracies) -> float:
    """The mean over kinds and severities, as published with CIFAR-10-C."""
    values = [share for shares in found.values() for share in shares.values()]
    return sum(values) / len(values)
