"""Pickle files of published data sets, read without executing what they hold."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from dathvd.errors import UserError

# plain containers and numbers need no import; arrays need these, under the names of
# NumPy 1 and 2
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}


class _ArraysOnly(pickle.Unpickler):
    """Builds lists, dictionaries, bytes, text, numbers and NumPy arrays; no more."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def read_arrays(path: Path, field: str = "data.root") -> dict[str, Any]:
    """The dictionary of a pickle file, with its keys as text.

    Raises:
        UserError: it cannot be read, is not a dictionary, or would import anything but
            NumPy arrays; ``field`` of the configuration is named.
    """
    try:
        with open(path, "rb") as file:
            content = _ArraysOnly(file, encoding="bytes").load()
    except Exception as error:  # noqa: B902 (a broken pickle raises anything)
        raise UserError(f"{field}: {path} is no pickle of arrays: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{field}: {path} holds no dictionary")
    return {
        key.decode(errors="replace") if isinstance(key, bytes) else str(key): value
        for key, value in content.items()
    }
