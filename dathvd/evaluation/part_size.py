"""How many images an attack of many short calls is given at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dathvd.attacks.network import in_mode
from dathvd.config import Config
from dathvd.data import Dataset
from dathvd.evaluation.grid import Cell
from dathvd.evaluation.preconditions import first_image
from dathvd.evaluation.store import Store
from dathvd.runtime import Runtime, from_root, together

LARGEST = 512
"""Images of a part at most: calls on more gain little, and parts are what workers
share."""
_ACTIVATIONS = 2**26
"""Values of all layers' outputs together that a part may have; 256 MB in float32."""
_PARTS = 4
"""Parts that a test set is cut into at least, for the workers to share."""


def part_size(model: nn.Module, image: Tensor, least: int, count: int) -> int:
    """The size of a part, the larger the cheaper the network is.

    A call on few small images takes nearly as long as one on many: AutoAttack makes
    some ten thousand calls on each part. The size follows from the network and the
    number of images, so that results do not depend on the number of workers.

    Args:
        model: from images in [0, 1] to logits.
        image: float ``[1, C, H, W]``, on the model's device.
        least: the size for expensive networks, which is never gone below.
        count: of the images that are judged.
    """
    values = 0

    def add(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal values
        values += output.numel() if isinstance(output, Tensor) else 0

    leaves = [module for module in model.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(add) for module in leaves]
    try:
        with in_mode(model, training=False) as network, torch.no_grad():
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    fits = min(_ACTIVATIONS // max(values, 1), LARGEST, -(-count // _PARTS))
    return max(least, fits)


def with_parts(
    config: Config,
    model: nn.Module,
    dataset: Dataset,
    cells: list[Cell],
    output: Path | None,
    runtime: Runtime,
) -> Config:
    """The configuration with the size of parts that fits: that of what the output
    folder holds already, or for AutoAttack a larger one where the network is cheap."""
    if output is not None:
        root = runtime.is_root
        found = together(runtime, lambda: Store.batch_size_in(output) if root else None)
        size = from_root(runtime, found)
        if size is not None:
            return _with_batch_size(config, size)
    if any(cell.attack == "autoattack" for cell in cells):
        return with_large_parts(config, model, dataset, runtime.device)
    return config


def with_large_parts(
    config: Config, model: nn.Module, dataset: Dataset, device: torch.device
) -> Config:
    """The configuration with larger parts where the network is cheap."""
    settings = config.evaluation
    count = min(len(dataset.test), settings.max_samples or len(dataset.test))
    image = first_image(dataset, device)
    size = part_size(model, image, settings.batch_size, count)
    return _with_batch_size(config, size)


def _with_batch_size(config: Config, size: int) -> Config:
    parts = config.evaluation.model_copy(update={"batch_size": size})
    return config.model_copy(update={"evaluation": parts})
