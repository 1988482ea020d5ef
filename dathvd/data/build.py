"""From a configuration to a data set."""

from __future__ import annotations

from collections.abc import Callable

from dathvd.config import DataConfig
from dathvd.data.arrays import arrays
from dathvd.data.cifar import cifar10, cifar100
from dathvd.data.digits import digits
from dathvd.data.extra import with_extra
from dathvd.data.fit import fit
from dathvd.data.folder import image_folder
from dathvd.data.mnist import fashion_mnist, mnist
from dathvd.data.sets import Dataset
from dathvd.data.svhn import svhn
from dathvd.data.synthetic import synthetic
from dathvd.errors import choose

DATASETS: dict[str, Callable[[DataConfig], Dataset]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "svhn": svhn,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "image_folder": image_folder,
    "arrays": arrays,
    "synthetic": synthetic,
}


def load_dataset(config: DataConfig) -> Dataset:
    """The configured data set.

    Raises:
        UserError: there is none of that name, or its files are not usable; the message
            names the file.
    """
    dataset = choose("data.name", config.name, DATASETS)(config)
    return with_extra(fit(dataset, config), config)
