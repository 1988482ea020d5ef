"""Records where work on a device makes the host wait for the device."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import dathvd

_ROOT = Path(dathvd.__file__).parent
_VALUES = {
    "_local_scalar_dense",
    "equal",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
}
"""Operators whose result the host needs before it can go on."""
META = torch.device("meta")


class HostReads(TorchDispatchMode):
    """Runs work on the meta device, which has shapes and no values.

    Whatever needs a value on the host is recorded as ``file:function`` of the innermost
    frame of dathvd, and gets a value that is made up: ones, or zeros for copies.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads: list[str] = []
        """A value, a shape that depends on values, or a copy to the host."""
        self.blocking_copies: list[str] = []
        """Copies to the device that are not marked non-blocking."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name in _VALUES and args[0].device == META:
            self.reads.append(_caller())
            return _made_up(name, args[0])
        if name == "_to_copy" and (device := kwargs.get("device")) is not None:
            source, target = args[0].device, torch.device(device)
            if source == META and target.type == "cpu":
                self.reads.append(_caller())
                return torch.zeros(args[0].shape, dtype=kwargs.get("dtype"))
            if source.type == "cpu" and target == META and args[0].dim():
                if not kwargs.get("non_blocking"):
                    self.blocking_copies.append(_caller())
        if name == "copy_" and args[0].device != args[1].device:
            if args[1].device == META:
                self.reads.append(_caller())
                return args[0]
            if args[1].dim() and not (len(args) > 2 and args[2]):
                self.blocking_copies.append(_caller())
        return func(*args, **kwargs)


def _made_up(name: str, tensor: Tensor) -> Any:
    if name == "_local_scalar_dense":
        return torch.ones((), dtype=tensor.dtype).item()
    if name == "equal":
        return True
    raise NotImplementedError(f"{name} in a training step")


def _caller() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if _ROOT in path.parents:
            return f"{path.relative_to(_ROOT)}:{frame.f_code.co_name}"
        assert frame.f_back is not None
        frame = frame.f_back
    raise AssertionError("not called from dathvd")
