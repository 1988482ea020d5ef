"""What must be equal for judged samples to belong to one evaluation."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

from dathvd import __version__
from dathvd.config import Config
from dathvd.data import ImageSet
from dathvd.hashing import parameters_sha256, tensor_sha256


def identify(
    model: nn.Module,
    images: ImageSet,
    config: Config,
    *,
    only_survivors: list[str] | None = None,
) -> dict[str, Any]:
    """Network, data, seed, parts and software, as JSON values.

    Attacks are not in it, as each cell's flags carry their own key: the same folder
    takes further cells. ``max_samples`` is not either: it may be raised later.

    Args:
        model: the network.
        images: the test set.
        config: the run's configuration.
        only_survivors: the keys of all cells, where each depends on those before it.
    """
    return {
        "parameters_sha256": parameters_sha256(model),
        "model": config.model.model_dump(mode="json"),
        "batch_size": config.evaluation.batch_size,
        "data_sha256": _data_sha256(images, config.evaluation.batch_size),
        "seed": config.seed,
        "only_survivors": only_survivors,
        "dathvd": __version__,
        "torch": torch.__version__,
    }


def _data_sha256(images: ImageSet, count: int) -> str:
    """SHA-256 of all labels and the first images: decoding all may take too long."""
    first = images.batch(torch.arange(min(count, len(images))))
    parts = tensor_sha256("labels", images.labels), tensor_sha256("images", first)
    return hashlib.sha256(b"".join(parts)).hexdigest()
