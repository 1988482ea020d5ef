"""The pretext task of telling by which quarter turn an image was rotated.

Gidaris, Singh and Komodakis, Unsupervised Representation Learning by Predicting Image
Rotations (ICLR 2018).
"""

from __future__ import annotations

from dataclasses import replace

from dathvd.config import DataConfig
from dathvd.data import Augmentation, Dataset, Views, build_augmentation
from dathvd.data.views import TURNS, Turned, turned, turns
from dathvd.errors import UserError
from dathvd.tasks.task import Task


class Rotation(Task):
    """Four classes, the quarter turns; each image is shown in all four."""

    def dataset(self, dataset: Dataset) -> Dataset:
        """The data set with the turns as classes, its test images turned.

        Raises:
            UserError: the images are not square.
        """
        _, height, width = dataset.image_shape
        if height != width:
            raise UserError(
                f"objective.name: {self.objective.name} needs square images, these are "
                f"{width}x{height} (set data.image_size)"
            )
        return replace(dataset, test=Turned(dataset.test), classes=TURNS)

    def views(self, data: DataConfig) -> tuple[Augmentation | None, Views | None]:
        """The configured augmentation, then the four turns of what it gives."""
        views = Views(len(TURNS), lambda images, draws: turned(images), turns)
        return build_augmentation(data), views
