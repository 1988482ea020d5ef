"""Safetensors: the weights by name, and in the header what network they are of."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from dathvd import __version__, checkpoint
from dathvd.errors import UserError
from dathvd.export.form import Form, Function, Trained, function_of, need
from dathvd.files import explain_os_errors, write_bytes

FORMAT = "dathvd-1"


class Safetensors(Form):
    """Tensors by their names in the network; holds no code."""

    file_name: ClassVar[str] = "model.safetensors"

    def write(self, trained: Trained, place: Path) -> list[str]:
        need("safetensors")
        from safetensors.torch import save

        state = trained.model.state_dict()
        # tensors of their own: the format knows no shared memory
        tensors = {name: tensor.detach().clone() for name, tensor in state.items()}
        header = {
            "format": FORMAT,
            "version": __version__,
            "config": trained.config.model_dump_json(),
            "image_shape": json.dumps(trained.image_shape),
            "num_classes": str(trained.num_classes),
            "step": str(trained.step),
            "weights": trained.weights,
        }
        write_bytes(place, save(tensors, header))
        return []

    def read(self, place: Path, trained: Trained) -> Function:
        # what the export trusted, it may read back
        places = list(trained.config.foreign().values())
        return function_of(load_safetensors(place, trust=places))


def load_safetensors(
    file: str | Path,
    *,
    network: nn.Module | None = None,
    trust: bool | Collection[str] = False,
) -> nn.Module:
    """The network of a file of ``dathvd export --to safetensors``.

    Args:
        file: the file; reading it runs no code, whoever wrote it.
        network: a fresh network of the run's kind, whose weights are replaced; needed
            where ``model.name`` lies outside of dathvd.
        trust: whether such code may be imported instead.

    Returns:
        A module in eval mode, from images in [0, 1] to logits.

    Raises:
        UserError: the file cannot be read or is damaged, is not such an export, or
            names a network outside of dathvd that is neither given nor trusted.
    """
    path = Path(file)
    header, tensors = _contents(path)
    try:
        state: dict[str, Any] = {
            "config": header["config"],
            "image_shape": [int(size) for size in json.loads(header["image_shape"])],
            "num_classes": int(header["num_classes"]),
            "model": tensors,
        }
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{path}: not an export of dathvd") from None
    config = checkpoint.stored_config(state, str(path))
    if network is None:
        checkpoint.require_trust(config, ["model.name"], str(path), trust)
    model, _ = checkpoint.restore_model(state, str(path), network=network, trust=True)
    return model


def _contents(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors.

    Raises:
        UserError: the file cannot be read or is damaged.
    """
    need("safetensors")
    from safetensors import SafetensorError, safe_open

    with explain_os_errors("read", path):
        path.open("rb").close()
    try:
        with safe_open(str(path), "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError:
        raise UserError(f"{path}: damaged, or not a file of safetensors") from None
    if header.get("format") != FORMAT:
        raise UserError(f"{path}: not an export of dathvd")
    return header, tensors
