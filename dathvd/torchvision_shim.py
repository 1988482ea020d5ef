"""torchvision beside a torch that it was not built for.

torchvision's wheel on PyPI is linked with CUDA. Beside a CPU build of torch its
operators cannot be loaded, and importing torchvision fails while it registers shape
functions for them. Declaring their signatures is enough: networks and transforms call
none of them. Where torchvision imports as it is, nothing is declared.

``from dathvd.torchvision_shim import torchvision`` costs seconds, so it belongs inside
the function that needs it.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
"""The operators that torchvision 0.28 registers functions for when imported."""

declarations: torch.library.Library | None = None
"""Keeps the declared operators alive; None where torchvision needed no help."""


def _import() -> ModuleType:
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    global declarations
    declarations = torch.library.Library("torchvision", "FRAGMENT")
    for name, signature in OPERATORS.items():
        declarations.define(name + signature)
    return importlib.import_module("torchvision")


torchvision = _import()
