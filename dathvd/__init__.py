"""dathvd: distributed adversarial training on Horovod."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> module: imported on first use, so that `dathvd --help` stays quick
_LAZY = {
    "Compression": "dathvd.compression",
    "DistributedOptimizer": "dathvd.distributed",
    "load_model": "dathvd.checkpoint",
}
__all__ = ["Compression", "DistributedOptimizer", "__version__", "load_model"]

if TYPE_CHECKING:
    from dathvd.checkpoint import load_model
    from dathvd.compression import Compression
    from dathvd.distributed import DistributedOptimizer


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'dathvd' has no attribute {name!r}")
