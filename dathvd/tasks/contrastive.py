"""The pretext task of finding an image's other view among those of other images.

Jiang et al., Robust Pre-Training by Adversarial Contrastive Learning (NeurIPS 2020).
"""

from __future__ import annotations

import functools
from dataclasses import replace

from torch import Tensor, nn

from dathvd.attacks import Attack
from dathvd.attacks.attack import correct_on
from dathvd.attacks.probes import Probe
from dathvd.config import DataConfig
from dathvd.data import Augmentation, Dataset, Views
from dathvd.data.views import partners, two_views
from dathvd.errors import UserError
from dathvd.noise import SampleNoise
from dathvd.objectives import build_objective
from dathvd.tasks.task import Task


class Contrastive(Task):
    """Embeddings instead of classes; a loss depends on all samples of a step."""

    def dataset(self, dataset: Dataset) -> Dataset:
        """The data set with as many classes as an embedding has dimensions."""
        dimensions = tuple(str(index) for index in range(self.objective.dimension))
        return replace(dataset, classes=dimensions)

    def views(self, data: DataConfig) -> tuple[Augmentation | None, Views | None]:
        """Two views of each image, which are augmentations of their own.

        They are flipped as in ``data.flip`` and have ``data.crop_size``; no other
        augmentation goes before.
        """
        make = functools.partial(two_views, flip=data.flip, size=data.crop_size)
        return None, Views(2, make, partners)

    def check_steps(self, fewest: int, parts: int, batch_size: int) -> None:
        """Refuse a step in which a worker has no image, as others wait for its views.

        Raises:
            UserError: the smallest step has fewer images than parts.
        """
        if fewest < parts:
            raise UserError(
                f"train.batch_size: the last step of an epoch has {fewest} images, "
                f"{self.objective.name} needs {parts} (workers * "
                f"backward_passes_per_step): take {batch_size - 1} or another size"
            )

    def probe(self, data: DataConfig, attack: Attack) -> Probe:
        """A probe: both views are nearest to each other, also under the attack.

        Their neighbours are the batch's, so that its size is part of the result.
        """
        _, views = self.views(data)
        assert views is not None
        objective = build_objective(self.objective)

        def probe(
            model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
        ) -> Tensor:
            pairs = views.make(images, noise)
            others = views.labels(len(images)).to(images.device)
            network = objective.attacked(model)
            each = noise.repeat(views.count)
            # not worst_case: without the others' views a survivor has no partner
            attacked = attack(network, pairs, others, each)
            right = correct_on(network, attacked, others)
            return right.view(-1, views.count).all(dim=1)

        return probe
