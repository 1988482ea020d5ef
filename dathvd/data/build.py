"""The readers of data sets: a configuration becomes a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dathvd.components import DATASETS as _DATASETS
from dathvd.config import DataConfig
from dathvd.data.extra import with_extra
from dathvd.data.fit import fit
from dathvd.data.sets import Dataset

DATASETS: Mapping[str, Callable[..., Dataset]] = _DATASETS
"""Readers of data sets by name; their places are in ``dathvd.components``."""


def load_dataset(config: DataConfig) -> Dataset:
    """The configured data set.

    Raises:
        UserError: it lies elsewhere and cannot be imported or made, or its files are
            not usable; the message names the file.
    """
    dataset: Dataset = _DATASETS.build(config)
    return with_extra(fit(dataset, config), config)
