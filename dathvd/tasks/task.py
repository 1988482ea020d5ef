"""What a task decides; the base class learns the data set's own labels."""

from __future__ import annotations

from dathvd.attacks import Attack
from dathvd.attacks.probes import Probe, survives
from dathvd.config import DataConfig, ObjectiveConfig
from dathvd.data import Augmentation, Dataset, Views, build_augmentation


class Task:
    """Supervised learning. A pretext task overrides what differs there.

    Args:
        objective: the section that has chosen the task, with its options.
    """

    def __init__(self, objective: ObjectiveConfig) -> None:
        self.objective = objective

    def dataset(self, dataset: Dataset) -> Dataset:
        """The data set as the task sees it: its classes, and what is judged.

        Raises:
            UserError: the task cannot work with these images.
        """
        return dataset

    def views(self, data: DataConfig) -> tuple[Augmentation | None, Views | None]:
        """The augmentation of training images, and the views made of them thereafter.

        Returns:
            None for no augmentation; None where each image is its own only view.
        """
        return build_augmentation(data), None

    def check_steps(self, fewest: int, parts: int, batch_size: int) -> None:
        """Refuse steps that are cut too finely for the task.

        Args:
            fewest: images of the smallest step.
            parts: backward passes of that step, over all workers.
            batch_size: images of the other steps.

        Raises:
            UserError: the task needs an image in each part.
        """

    def probe(self, data: DataConfig, attack: Attack) -> Probe:
        """A probe of which samples the network gets right under an attack."""
        return survives(attack)
