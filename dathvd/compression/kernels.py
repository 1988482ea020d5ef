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
    "f": ctypes.c_float,
    "u": ctypes.c_uint32,
}
_SIGNATURES = {
    "sign_encode": "ppppnf",
    "sign_decode": "ppn",
    "sign_decode_mean": "pnnpnf",
    "int8_encode": "ppppnfnuu",
    "int8_decode": "ppn",
    "int8_decode_mean": "pnnpnf",
    "int4_encode": "ppppnfnuu",
    "int4_decode": "ppn",
    "int4_decode_mean": "pnnpnf",
    "topk_encode": "ppppnfnn",
    "topk_decode_mean": "pnnpnfnn",
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
        function.restype = None
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
