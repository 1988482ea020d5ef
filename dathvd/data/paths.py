"""Paths in the configuration."""

from __future__ import annotations

import os
from pathlib import Path

from dathvd.config import DataConfig
from dathvd.errors import UserError


def expand(field: str, path: str) -> Path:
    """The path with ``~`` and environment variables put in.

    Raises:
        UserError: a variable is not set; ``field`` is named.
    """
    expanded = os.path.expandvars(os.path.expanduser(path))
    if "$" in expanded:
        raise UserError(f"{field}: {path}: environment variable is not set")
    return Path(expanded)


def data_root(config: DataConfig) -> Path:
    """``data.root``, which must be set.

    Raises:
        UserError: it is not set, or names a variable that is not.
    """
    if config.root is None:
        raise UserError(f"data.root: must be set for data.name {config.name}")
    return expand("data.root", config.root)


def data_folder(config: DataConfig) -> Path:
    """``data.root``, which must be a folder.

    Raises:
        UserError: it is not.
    """
    root = data_root(config)
    if not root.is_dir():
        raise UserError(f"data.root: {root} is not a folder")
    return root
