"""The compiled loops (``kernels_*.cpp``), called without the interpreter's lock.

Built with the package where a C++ compiler is; elsewhere the codecs' torch operations
do the same work, with the same bits. Calls are single-threaded and may run in several
threads at once.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_TYPES: dict[str, Any] = {
    "p": ctypes.c_void_p,
    "n": ctypes.c_int64,
    "i": ctypes.c_int,
    "f": ctypes.c_float,
    "u": ctypes.c_uint32,
}
_SIGNATURES = {
    "sign_encode": "ppppnf",
    "sign_decode": "pnnpnf",
    "int8_encode": "ppppnfnuu",
    "int8_decode": "pnnpnf",
    "int4_encode": "ppppnfnuu",
    "int4_decode": "pnnpnf",
    "topk_encode": "ppppnfnn",
    "topk_decode": "pnnpnfnn",
    "lower_target": "i",
    "kernel_target": "",
}
_switched_off = False


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they were not built."""
    folder = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_kernels{suffix}"
        if path.exists():
            return _declare(ctypes.CDLL(str(path)))
    return None


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    for name, letters in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes = [_TYPES[letter] for letter in letters]
        function.restype = ctypes.c_int if name == "kernel_target" else None
    return library


def available() -> bool:
    """Whether the compiled kernels were built and are not switched off."""
    return not _switched_off and _library() is not None


def takes(tensor: Tensor) -> bool:
    """Whether the compiled kernels can work on the tensor."""
    return tensor.device.type == "cpu" and available()


@contextmanager
def without_kernels() -> Iterator[None]:
    """Use torch operations inside this block, as where no compiler was."""
    global _switched_off
    before, _switched_off = _switched_off, True
    try:
        yield
    finally:
        _switched_off = before


def call(name: str, *arguments: Tensor | int | float | None) -> None:
    """Run a kernel; tensors are passed by address, and must be contiguous."""
    library = _library()
    assert library is not None
    getattr(library, name)(*map(_argument, arguments))


def _argument(value: Tensor | int | float | None) -> int | float | None:
    if not isinstance(value, Tensor):
        return value
    assert value.dtype in (torch.float32, torch.uint8) and value.stride(-1) == 1
    return value.data_ptr()


TARGETS = ("plain", "avx2", "avx512")


def target() -> str | None:
    """The instruction set of the compiled kernels, or None where they are not used."""
    library = _library() if available() else None
    return None if library is None else TARGETS[library.kernel_target()]


@contextmanager
def at_most(name: str) -> Iterator[None]:
    """Use no higher instruction set than this one of ``TARGETS`` inside this block."""
    library = _library()
    assert library is not None
    library.lower_target(TARGETS.index(name))
    try:
        yield
    finally:
        library.lower_target(len(TARGETS) - 1)
