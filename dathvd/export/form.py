"""What a form of an export is, and what it is made from."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor, nn

from dathvd import checkpoint
from dathvd.config import Config
from dathvd.errors import UserError

Function = Callable[[Tensor], Tensor]
"""From images in [0, 1] to logits, without gradients."""


@dataclass(frozen=True)
class Trained:
    """A network out of a checkpoint, and where it is from."""

    model: nn.Module
    """In eval mode, on the CPU; normalisation is its first layer."""
    config: Config
    image_shape: tuple[int, int, int]
    """(channels, height, width)."""
    num_classes: int
    step: int
    """Steps of training that are behind it."""
    weights: checkpoint.Weights
    run: Path
    """The run folder."""


class Form(ABC):
    """One form: a file or a folder that another program reads."""

    file_name: ClassVar[str]
    """The name in the run folder's ``exported``, unless another is asked for."""

    @abstractmethod
    def write(self, trained: Trained, place: Path) -> list[str]:
        """Write the file or the folder, whole or not at all; lines of what to know.

        Raises:
            UserError: a package is missing, or the place cannot be written.
        """

    @abstractmethod
    def read(self, place: Path, trained: Trained) -> Function:
        """What has just been written, as the program that it is for would run it.

        Raises:
            UserError: a package is missing.
        """


def function_of(network: nn.Module) -> Function:
    """A network as a function that takes no gradients."""

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        logits: Tensor = network(images)
        return logits

    return run


def need(package: str) -> ModuleType:
    """A package of the extra ``export``.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"export: needs the package {package}: pip install 'dathvd[export]'"
        ) from None
