"""Rank 0's checkpoint on every rank, tensor by tensor."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dathvd import checkpoint, heartbeat
from dathvd.runtime import (
    Runtime,
    bytes_from_root,
    fill_from_root,
    from_root,
    together,
)


def load_on_root(
    runtime: Runtime,
    find: Callable[[], Path],
    load: Callable[[Path], dict[str, Any]] = checkpoint.load_file,
) -> tuple[str, dict[str, Any]]:
    """Name and content of a file that rank 0 alone needs to see; every rank calls it.

    Args:
        runtime: this worker's place.
        find: gives the path; called on rank 0.
        load: reads it there.

    Raises:
        AgreedError: it is not found, or cannot be read; raised on every rank.
    """

    def read() -> tuple[str, dict[str, Any]]:
        if not runtime.is_root:
            return "", {}
        file = find()
        return str(file), load(file)

    name, tree = together(runtime, read)
    return from_root(runtime, name), tree_from_root(runtime, tree)


def tree_from_root(runtime: Runtime, tree: dict[str, Any]) -> dict[str, Any]:
    """Rank 0's dictionary of tensors and plain values on every rank, bit by bit.

    What it looks like goes first, its tensors one after the other: nobody holds more
    than the tensors and a part of one.

    Args:
        runtime: this worker's place.
        tree: what rank 0 has, on the CPU; other ranks' is not looked at.
    """
    if runtime.size == 1:
        return tree
    with heartbeat.resting():
        data = _outline(tree) if runtime.is_root else b""
        data = bytes_from_root(data, "tree_from_root")
        if not runtime.is_root:
            tree = torch.load(io.BytesIO(data), weights_only=True)
            tree = checkpoint.map_tensors(tree, _allocate)
        tensors: list[Tensor] = []
        checkpoint.map_tensors(tree, tensors.append)
        for number, tensor in enumerate(tensors):
            fill_from_root(tensor, f"tree_from_root.{number}")
    return tree


def _outline(tree: dict[str, Any]) -> bytes:
    """The tree without its tensors' values."""

    def outlined(tensor: Tensor) -> Tensor:
        return torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
        )

    data = io.BytesIO()
    torch.save(checkpoint.map_tensors(tree, outlined), data)
    return data.getvalue()


def _allocate(outline: Tensor) -> Tensor:
    return torch.empty_strided(outline.shape, outline.stride(), dtype=outline.dtype)
