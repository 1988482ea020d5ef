"""A network on disk that no run has trained, for what starts from one or asks it."""

from __future__ import annotations

from pathlib import Path

import torch

from dathvd.checkpoint.files import FORMAT, save_file
from dathvd.config import load_config
from dathvd.models import build_model


def save_network(
    folder: Path, shape: tuple[int, int, int], classes: int, *overrides: str
) -> Path:
    """Write a checkpoint folder with a network of random weights."""
    config = load_config(None, overrides)
    torch.manual_seed(0)
    model = build_model(config.model, shape, classes)
    folder.mkdir(parents=True)
    save_file(
        folder / "model.pt",
        {
            "format": FORMAT,
            "step": 0,
            "num_workers": 1,
            "config": config.model_dump_json(),
            "image_shape": list(shape),
            "num_classes": classes,
            "model": model.state_dict(),
        },
    )
    return folder
