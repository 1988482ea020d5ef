"""The data set and how it is cut."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dathvd.components import DATASETS, ERASURES, MIXES
from dathvd.config.base import (
    ComponentSection,
    Count,
    FromList,
    Natural,
    NonNegative,
    Positive,
    Share,
    among,
    named_in,
)


class DataConfig(ComponentSection):
    """A data set of labelled images."""

    name: Annotated[str, named_in(DATASETS)] = "digits"
    """digits (scikit-learn's, ships with it); mnist, fashion_mnist, svhn, cifar10 and
    cifar100 (torchvision's files under root); image_folder (ROOT/train/CLASS/* and
    ROOT/test/CLASS/* or ROOT/val/CLASS/*); arrays (one .npz file); synthetic (random
    images, for benchmarks); or the place of another one, package.module:attribute."""
    root: str | None = None
    """The data set's folder, or the file of arrays; ~ and $VARIABLES are put in."""
    download: bool = False
    """Fetch missing files of mnist, fashion_mnist, svhn, cifar10 or cifar100."""
    test_fraction: Share = 0.2
    """Held-out share where the data set has no test split of its own."""
    split_seed: Natural = 0
    """Decides that split, apart from the run's seed."""
    image_size: Count | None = None
    """Height and width to which images are resized; None keeps the data set's own."""
    crop_size: Count | None = None
    """Height and width that the network sees, cut from the resized image; None for all
    of it. ImageNet's recipe is image_size 256, crop_size 224."""
    channels: Literal[1, 3] | None = None
    """Colour channels; None keeps the data set's own."""
    extra: Annotated[str | tuple[str, ...] | None, FromList] = None
    """A file, or a list of files, of more training images with (pseudo-)labels, which
    follow the data set's own: .npz with x_train and y_train or image and label (as
    generated images are published), NAMEdata.npy beside NAMElabels.npy, or the
    published pickle of 500K TinyImages. Files of the first two kinds are mapped into
    memory, of which all workers of a host then share one copy, unless they are
    compressed (dathvd convert-images)."""
    extra_ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of extra images in every worker's batch, in (0, 1); an epoch is then one
    pass over the data set's own images, and the extra ones take turns over the epochs.
    Null shuffles both together: an epoch is one pass over all."""
    extra_weight: NonNegative = 1.0
    """Weight of an extra image in the loss, where one of the data set's own has 1."""
    num_classes: Count = 10
    """Number of classes of synthetic data."""
    num_train: Count = 1024
    """Number of training images of synthetic data."""
    num_test: Count = 256
    """Number of test images of synthetic data."""
    augment: bool = False
    """Random crops and, with flip, mirrored images while training: crops of the padded
    image, or of random size and shape where crop_size is set."""
    padding: Natural = 4
    """Zeros on every side before a random crop without crop_size."""
    flip: bool = True
    """Whether augmentation mirrors images; wrong for digits and letters."""
    erase: Annotated[str | None, among(ERASURES)] = None
    """What is hidden of training images after the crop: cutout (a black square of half
    the image's side) or random_erasing (half of the images lose a rectangle to random
    values)."""
    rand_augment: Natural = 0
    """Operations that RandAugment (Cubuk et al., NeurIPS 2020) does on each training
    image after the crop, drawn by the sample's own noise; its paper takes 2 to 3. Wants
    augment."""
    rand_magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Their strength, of 30."""
    noise: NonNegative = 0.0
    """Standard deviation of normal noise on training images, in pixel units, for
    randomised smoothing (Cohen et al., ICML 2019): nothing is clipped to [0, 1]."""
    mix: Annotated[str | None, among(MIXES)] = None
    """Training images are made of two, with labels in the same parts: mixup (weighted
    means) or cutmix (a rectangle of the other one). The other is any training image."""
    mix_alpha: Positive = 1.0
    """The share that an image keeps of its own follows Beta(mix_alpha, mix_alpha)."""
    storage: Literal["auto", "memory", "lazy"] = "auto"
    """Image folders: decode all at start into memory, or each batch when it is needed;
    auto takes memory up to 2 GiB."""
    cache: str | None = None
    """A folder that keeps the decoded images of an image_folder (uint8 at image_size),
    so that they are decoded once, by all workers of a host together, and shared by
    them; what a killed run has decoded stays."""
    num_threads: Count = 4
    """Threads of each worker that decode image files."""

    def without_extra(self) -> DataConfig:
        """The same without ``extra``, which nothing but training needs."""
        none = {"extra": None, "extra_ratio": None, "extra_weight": 1.0}
        return self.model_copy(update=none)

    @model_validator(mode="after")
    def _mixing_needs_extra_images(self) -> DataConfig:
        if not self.extra:
            for field, given in (
                ("extra_ratio", self.extra_ratio is not None),
                ("extra_weight", self.extra_weight != 1.0),
            ):
                if given:
                    raise ValueError(f"{field} needs extra images: set extra to a file")
        if self.rand_augment and not self.augment:
            raise ValueError("rand_augment follows the random crop: set augment")
        return self
