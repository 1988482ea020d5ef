"""Data sets of labelled uint8 images, and how they are shared among workers."""

from dathvd.data.augment import (
    Augmentation,
    augment,
    build_augmentation,
    resized_crop,
)
from dathvd.data.build import DATASETS, load_dataset
from dathvd.data.extra import Concatenated, read_extra
from dathvd.data.frames import as_floats
from dathvd.data.sets import (
    CenterCrop,
    Dataset,
    Frames,
    FrameSet,
    ImageSet,
    Subset,
    TensorImages,
    unaugmented,
    whole_frames,
)
from dathvd.data.sharding import (
    epoch_batches,
    mixed_order,
    num_batches,
    permutation,
    worker_slice,
)
from dathvd.data.views import Views

__all__ = [
    "DATASETS",
    "Augmentation",
    "CenterCrop",
    "Concatenated",
    "Dataset",
    "FrameSet",
    "Frames",
    "ImageSet",
    "Subset",
    "TensorImages",
    "Views",
    "as_floats",
    "augment",
    "build_augmentation",
    "epoch_batches",
    "load_dataset",
    "mixed_order",
    "num_batches",
    "permutation",
    "read_extra",
    "resized_crop",
    "unaugmented",
    "whole_frames",
    "worker_slice",
]
