"""Where submitted runs are executed. A new engine is one file and one line here."""

from __future__ import annotations

import importlib

from dathvd.errors import choose
from dathvd.service.engines.base import Engine

ENGINES = {
    "local": "dathvd.service.engines.local:Local",
    "slurm": "dathvd.service.engines.slurm:Slurm",
    "kubernetes": "dathvd.service.engines.kubernetes:Kubernetes",
    "lsf": "dathvd.service.engines.lsf:Lsf",
}
"""The engines by name, each imported when it is used."""


def build_engine(name: str) -> Engine:
    """The engine of that name.

    Raises:
        UserError: there is none; the message holds the nearest.
    """
    module, _, attribute = choose("engine", name, ENGINES).partition(":")
    engine: Engine = getattr(importlib.import_module(module), attribute)()
    return engine
