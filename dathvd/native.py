"""Compiled loops, called without the interpreter's lock.

``setup.py`` builds them with the package where a C++ compiler is. Each library holds
its loops for several instruction sets and takes the processor's best one.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TARGETS = ("plain", "avx2", "avx512", "avx512_bf16")
_DTYPES = (torch.float32, torch.bfloat16, torch.uint8)
_OWN = {"lower_target": "i", "kernel_target": ""}
_TYPES: dict[str, Any] = {
    "p": ctypes.c_void_p,
    "n": ctypes.c_int64,
    "i": ctypes.c_int,
    "f": ctypes.c_float,
    "u": ctypes.c_uint32,
}


class Native:
    """One library.

    Args:
        module: its dotted name.
        signatures: of each function, a letter an argument: pointer, n int64, int,
            float, unsigned.
        targets: instruction sets that it may have, from the least.
    """

    def __init__(
        self,
        module: str,
        signatures: Mapping[str, str],
        targets: Sequence[str] = TARGETS,
    ) -> None:
        self.targets = tuple(targets)
        self._parts = module.split(".")[1:]
        self._signatures = {**signatures, **_OWN}
        self._switched_off = False

    @functools.cached_property
    def _library(self) -> ctypes.CDLL | None:
        stem = Path(__file__).parent.joinpath(*self._parts)
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            path = stem.with_name(stem.name + suffix)
            if path.exists():
                return self._declare(ctypes.CDLL(str(path)))
        return None

    def _declare(self, library: ctypes.CDLL) -> ctypes.CDLL:
        for name, letters in self._signatures.items():
            function = getattr(library, name)
            function.argtypes = [_TYPES[letter] for letter in letters]
            function.restype = ctypes.c_int if name == "kernel_target" else None
        return library

    def available(self) -> bool:
        """Whether the library was built and is not switched off."""
        return not self._switched_off and self._library is not None

    def takes(self, tensor: Tensor) -> bool:
        """Whether the library can work on the tensor."""
        return tensor.device.type == "cpu" and self.available()

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Use torch operations inside this block, as where no compiler was."""
        before, self._switched_off = self._switched_off, True
        try:
            yield
        finally:
            self._switched_off = before

    def call(self, name: str, *arguments: Tensor | int | float | None) -> None:
        """Run a function; tensors are passed by address, in the layout they have."""
        assert self._library is not None
        getattr(self._library, name)(*map(_argument, arguments))

    def target(self) -> str | None:
        """The instruction set that is used; None where the library is not."""
        library = self._library if self.available() else None
        return None if library is None else self.targets[library.kernel_target()]

    @contextmanager
    def at_most(self, name: str) -> Iterator[None]:
        """Use no higher instruction set than this one of ``targets`` in this block."""
        self.call("lower_target", self.targets.index(name))
        try:
            yield
        finally:
            self.call("lower_target", len(self.targets) - 1)


def _argument(value: Tensor | int | float | None) -> int | float | None:
    if not isinstance(value, Tensor):
        return value
    assert value.dtype in _DTYPES and value.device.type == "cpu"
    return value.data_ptr()
