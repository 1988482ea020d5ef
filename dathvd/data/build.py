"""From a configuration to a data set."""

from __future__ import annotations

from collections.abc import Callable

from dathvd.config import DataConfig
from dathvd.data.digits import digits
from dathvd.data.folder import image_folder
from dathvd.data.sets import Dataset
from dathvd.data.synthetic import synthetic
from dathvd.errors import choose

DATASETS: dict[str, Callable[[DataConfig], Dataset]] = {
    "digits": digits,
    "image_folder": image_folder,
    "synthetic": synthetic,
}


def load_dataset(config: DataConfig) -> Dataset:
    """The configured data set.

    Raises:
        UserError: there is none of that name, or its files are not usable; the message
            names the file.
    """
    return choose("data.name", config.name, DATASETS)(config)
