"""The data set and how it is cut."""

from __future__ import annotations

from typing import Literal

from dathvd.config.base import Count, Natural, Section, Share


class DataConfig(Section):
    """A data set of labelled images."""

    name: Literal["digits", "image_folder", "synthetic"] = "digits"
    """digits (scikit-learn's, ships with it), image_folder (ROOT/train/CLASS/*.png
    and ROOT/test/CLASS/*.png) or synthetic (random images, for benchmarks)."""
    root: str | None = None
    """The folder of an image_folder data set."""
    test_fraction: Share = 0.2
    """Held-out share where the data set has no test split of its own."""
    split_seed: Natural = 0
    """Decides that split, apart from the run's seed."""
    image_size: Count | None = None
    """Height and width to which images are resized; None keeps the data set's own."""
    channels: Literal[1, 3] | None = None
    """Colour channels; None keeps the data set's own."""
    num_classes: Count = 10
    """Number of classes of synthetic data."""
    num_train: Count = 1024
    """Number of training images of synthetic data."""
    num_test: Count = 256
    """Number of test images of synthetic data."""
    augment: bool = False
    """Random crop with padding and horizontal flip while training."""
