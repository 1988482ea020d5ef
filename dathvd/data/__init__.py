"""Data sets of labelled uint8 images, and how they are shared among workers."""

from dathvd.data.augment import (
    Augmentation,
    augment,
    build_augmentation,
    resized_crop,
)
from dathvd.data.build import DATASETS, load_dataset
from dathvd.data.extra import Concatenated, read_extra
from dathvd.data.sets import Dataset, ImageSet, TensorImages
from dathvd.data.sharding import (
    epoch_batches,
    mixed_order,
    num_batches,
    permutation,
    worker_slice,
)

__all__ = [
    "DATASETS",
    "Augmentation",
    "Concatenated",
    "Dataset",
    "ImageSet",
    "TensorImages",
    "augment",
    "build_augmentation",
    "epoch_batches",
    "load_dataset",
    "mixed_order",
    "num_batches",
    "permutation",
    "read_extra",
    "resized_crop",
    "worker_slice",
]
