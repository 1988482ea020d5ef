"""Data sets of labelled uint8 images, and how they are shared among workers."""

from dathvd.data.augment import (
    Augmentation,
    augment,
    build_augmentation,
    resized_crop,
)
from dathvd.data.build import DATASETS, load_dataset
from dathvd.data.sets import Dataset, ImageSet, TensorImages
from dathvd.data.sharding import (
    epoch_batches,
    num_batches,
    permutation,
    worker_slice,
)

__all__ = [
    "DATASETS",
    "Augmentation",
    "Dataset",
    "ImageSet",
    "TensorImages",
    "augment",
    "build_augmentation",
    "epoch_batches",
    "load_dataset",
    "num_batches",
    "permutation",
    "resized_crop",
    "worker_slice",
]
